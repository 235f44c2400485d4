"""The set loss: match every layer's predictions to the objects, then train what was matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from detr2d.boxes import BoxCodec
from detr2d.matching import match
from detr2d.structures import Predictions, Targets, pad_stack


class ClassTerm(Protocol):
    """A classification cost and loss, see ``detr2d.losses``."""

    def costs(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Costs (..., Q, T)."""

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Summed losses (L,)."""


class SetCriterion:
    """Set prediction loss (DETR, section 3.1) over all decoder layers at once.

    ``cost`` and ``loss`` weigh the terms by name: ``"class"`` and those of the codec. Every layer
    is matched on its own. All terms are divided by the number of objects, averaged over processes
    and at least one. The targets' boxes are encoded by the codec.
    """

    def __init__(
        self,
        *,
        classes: ClassTerm,
        codec: BoxCodec,
        cost: Mapping[str, float],
        loss: Mapping[str, float],
    ) -> None:
        expected = {"class", *codec.terms}
        for name, weights in (("cost", cost), ("loss", loss)):
            if set(weights) != expected:
                raise ValueError(
                    f"{name} weights must name exactly {sorted(expected)}, got {sorted(weights)}"
                )
        self.classes = classes
        self.codec = codec
        self.cost = dict(cost)
        self.loss = dict(loss)

    def __call__(self, predictions: Predictions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Weighted scalar losses; the last layer's bare names, ``layer0/class`` ... for the others.

        Their sum is what is trained. Raises ValueError if targets and predictions differ in number.
        """
        logits, codes = predictions.logits, predictions.codes
        num_layers, num_images, _, num_classes = logits.shape
        if len(targets) != num_images:
            raise ValueError(f"{num_images} images need as many targets, got {len(targets)}")
        counts = [len(target) for target in targets]
        labels = pad_stack([target.labels for target in targets])  # (B, T)
        target_codes = self.codec.encode(pad_stack([target.boxes for target in targets], fill=1))

        with torch.no_grad():
            costs = self.codec.costs(codes, target_codes)
            costs["class"] = self.classes.costs(logits, labels)
            weighted = torch.stack([self.cost[name] * cost for name, cost in costs.items()])
            matches = match(weighted.sum(0), counts)

        where = (matches.layers, matches.images, matches.queries)
        which = (matches.images, matches.objects)
        target_labels = labels.new_full(logits.shape[:3], num_classes)
        target_labels[where] = labels[which]
        pair_losses = self.codec.losses(codes[where], target_codes[which])
        losses = {
            name: values.new_zeros(num_layers).index_add(0, matches.layers, values)
            for name, values in pair_losses.items()
        }
        losses["class"] = self.classes.losses(logits, target_labels)
        normalizer = mean_over_processes(logits.new_tensor(float(sum(counts)))).clamp(min=1)
        return {
            name if layer == num_layers - 1 else f"layer{layer}/{name}": value
            for name, values in losses.items()
            for layer, value in enumerate((self.loss[name] * values / normalizer).unbind(0))
        }


def mean_over_processes(value: Tensor) -> Tensor:
    """Average a tensor over all processes of a distributed run; itself in a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()
