"""Two-stage detection: the encoder's tokens propose boxes, the best of them become queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from detr2d.accumulation import Divisor
from detr2d.criterion import SetCriterion
from detr2d.deformable import MultiScaleMemory, cell_centres, map_sizes
from detr2d.linear import Linear
from detr2d.structures import Batch, Predictions, Targets, at_least_float32

SMALLEST_SIDE = 0.05  # of a proposal on the finest level; twice that on the next, and so on
MARGIN = 0.01  # anchors nearer than this to 0 or 1 are left out


@dataclass(frozen=True)
class Anchors(Batch):
    """Where each of N tokens starts to look for a box.

    logits (B, N, n): inverse sigmoids of its place, infinite where ``valid`` (B, N) bool is False:
    such a token proposes nothing.
    """

    logits: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Proposals(Batch):
    """What all tokens propose, and which were chosen.

    logits (B, N, K) and codes (B, N, D), before sigmoid; chosen (B, Q) int64, best first.
    """

    logits: Tensor
    codes: Tensor
    chosen: Tensor

    def select(self) -> Proposals:
        """The chosen proposals alone, in their order: Q instead of N."""
        logits, codes = take_rows(self.logits, self.chosen), take_rows(self.codes, self.chosen)
        order = torch.arange(self.chosen.shape[1], device=self.chosen.device)
        return Proposals(logits, codes, order.expand_as(self.chosen))

    def predictions(self) -> Predictions:
        """The proposals as one layer of predictions, codes after sigmoid."""
        return Predictions(self.logits.unsqueeze(0), self.codes.sigmoid().unsqueeze(0))


class EncoderProposals(nn.Module):
    """Every valid token proposes a class and a box around its anchor; the best are chosen.

    Deformable DETR, section 4.2 and appendix A.4, and DINO, section 3.4. ``score`` makes a score
    (B, N) of logits (B, N, K); the box head moves the first n entries of its code by the anchor.
    """

    def __init__(
        self,
        *,
        channels: int,
        class_head: nn.Module,
        box_head: nn.Module,
        count: int,
        score: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.transform = Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.class_head = class_head
        self.box_head = box_head
        self.count = count
        self.score = score
        nn.init.xavier_uniform_(self.transform.weight)

    def forward(self, tokens: Tensor, anchors: Anchors) -> Proposals:
        """Proposals of tokens (B, N, C); all of them are chosen if there are fewer than asked."""
        tokens = self.norm(self.transform(tokens.masked_fill(~anchors.valid.unsqueeze(-1), 0)))
        logits = self.class_head(tokens)
        delta = at_least_float32(self.box_head(tokens))
        n = anchors.logits.shape[-1]
        codes = torch.cat([delta[..., :n] + anchors.logits, delta[..., n:]], dim=-1)
        return Proposals(logits, codes, self.choose(logits))

    def choose(self, logits: Tensor) -> Tensor:
        """Tokens (B, Q) with the best scores, best first."""
        count = min(self.count, logits.shape[1])
        return self.score(at_least_float32(logits)).topk(count, dim=1).indices


def first_logit(logits: Tensor) -> Tensor:
    """Score (B, N) of logits (B, N, K): the first one, of a proposal that has no class yet."""
    return logits[..., 0]


def best_logit(logits: Tensor) -> Tensor:
    """Score (B, N) of logits (B, N, K): that of the most likely class."""
    return logits.max(-1).values


def grid_anchors(memory: MultiScaleMemory) -> Anchors:
    """Square boxes at the centre of each cell, larger on coarser levels; none in the padding.

    Squares in [0, 1] of the valid area, that is. Deformable DETR, appendix A.4.
    """
    sizes = map_sizes(memory.spatial_shapes, memory.valid_ratios)
    # Whole numbers of cells: near the margin, logits show the rounding of ratios * sizes.
    cells = cell_centres(memory.spatial_shapes, (memory.valid_ratios * sizes).round())
    sides = [
        cells.new_full((height * width,), SMALLEST_SIDE * 2**level)
        for level, (height, width) in enumerate(memory.spatial_shapes)
    ]
    side = torch.cat(sides).expand(len(cells), -1).unsqueeze(-1)
    boxes = torch.cat([cells, side, side], dim=-1)
    inside = ((boxes > MARGIN) & (boxes < 1 - MARGIN)).all(-1)
    valid = inside & ~memory.padding
    # Rounded once, from float64: the last bit of a float32 logarithm depends on the processor.
    logits = (boxes / (1 - boxes)).double().log().to(boxes)
    return Anchors(logits.masked_fill(~valid.unsqueeze(-1), float("inf")), valid)


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of values (B, N, D) at index (B, Q): (B, Q, D)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


class ProposalLoss(Protocol):
    """Trains what the first stage proposes."""

    def __call__(self, predictions: Any, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Weighted scalar losses by name."""

    def divisors(self, predictions: Any, batch: Any) -> dict[str, Divisor]:
        """What each term of a batch is divided by."""


class TwoStageCriterion:
    """The set loss of decoder layers, and a loss of the first stage's proposals.

    ``proposals`` is the set loss once more (DINO), ``ObjectnessLoss`` or ``DenseLoss``.
    """

    def __init__(self, set_loss: SetCriterion, proposals: ProposalLoss) -> None:
        self.set_loss = set_loss
        self.proposals = proposals

    def __call__(self, predictions: Predictions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Weighted scalar losses by name; those of proposals begin with ``proposals/``."""
        losses = self.set_loss(predictions, targets)
        if predictions.proposals is not None:
            found = self.proposals(predictions.proposals, targets)
            losses |= {f"proposals/{name}": value for name, value in found.items()}
        return losses

    def divisors(self, predictions: Predictions, batch: Any) -> dict[str, Divisor]:
        """Those of both stages; classes are divided by the number of objects in both."""
        terms = self.set_loss.divisors(predictions, batch)
        if predictions.proposals is None:
            return terms
        return {**self.proposals.divisors(predictions.proposals, batch), **terms}


class ObjectnessLoss:
    """The set loss of proposals that only tell objects from the rest (Deformable DETR).

    All objects count as label 0.
    """

    def __init__(self, set_loss: SetCriterion) -> None:
        self.set_loss = set_loss

    def __call__(self, predictions: Predictions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Weighted scalar losses by name."""
        return self.set_loss(predictions, as_objects(targets))

    def divisors(self, predictions: Predictions, batch: Any) -> dict[str, Divisor]:
        """Those of the set loss."""
        return self.set_loss.divisors(predictions, batch)


def as_objects(targets: Sequence[Targets]) -> list[Targets]:
    """The same objects, all of label 0."""
    return [replace(target, labels=torch.zeros_like(target.labels)) for target in targets]
