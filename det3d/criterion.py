"""What 3D systems predict beside their boxes, and the losses that train it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from det3d.denoising import Denoised, DenoisingLoss
from det3d.monocular import MonocularMaps
from det3d.monocular_loss import MonocularLoss
from det3d.structures import SceneBatch
from detr2d.accumulation import Divisor
from detr2d.criterion import SetCriterion, count_objects
from detr2d.structures import Predictions, Targets


@dataclass(frozen=True)
class ScenePredictions(Predictions):
    """Predictions of a 3D system, with what its optional parts answer.

    monocular: per-cell answers, of a system with a monocular branch; denoised: answers about noisy
    objects, in training with denoising queries.
    """

    monocular: MonocularMaps | None = None
    denoised: Denoised | None = None


class SceneCriterion:
    """The set loss, and the losses of those parts that answered."""

    def __init__(
        self,
        set_loss: SetCriterion,
        *,
        monocular: MonocularLoss | None = None,
        denoising: DenoisingLoss | None = None,
    ) -> None:
        self.set_loss = set_loss
        self.monocular = monocular
        self.denoising = denoising

    def __call__(self, predictions: Any, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Weighted scalar losses by name, of ``ScenePredictions``."""
        losses = self.set_loss(predictions, targets)
        if self.monocular is not None and predictions.monocular is not None:
            losses |= self.monocular(predictions.monocular, targets)
        if self.denoising is not None and predictions.denoised is not None:
            losses |= self.denoising(predictions.denoised)
        return losses

    def divisors(self, predictions: Any, batch: SceneBatch) -> dict[str, Divisor]:
        """What each term of a batch is divided by.

        Denoising is a mean over groups, divided by the objects too.
        """
        divisors = self.set_loss.divisors(predictions, batch)
        if self.monocular is not None and predictions.monocular is not None:
            divisors |= self.monocular.divisors(predictions.monocular, batch)
        if self.denoising is not None:
            objects = count_objects(batch.targets or (), predictions.logits)
            divisors |= dict.fromkeys(self.denoising.terms, objects)
        return divisors
