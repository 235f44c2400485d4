"""Proposals that every token is trained to make: many tokens answer for one object.

A set loss tells one token per object what it is, which teaches an encoder slowly. Co-DETR (Zong et
al., ICCV 2023) trains it with dense one-to-many heads beside the set loss; here such heads are the
first stage themselves. Their classes are heat as in CenterNet (Zhou et al., Objects as points,
2019), so a local maximum is an object and no two queries start from one. Boxes are written in cells
of the token's own level (FCOS, Tian et al., ICCV 2019, section 3.1). ``detr2d.dense_loss`` trains
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr2d.boxes import overlaps, to_corners
from detr2d.decoder import inverse_sigmoid, prior_bias
from detr2d.deformable import MultiScaleMemory, map_sizes
from detr2d.proposals import take_rows
from detr2d.structures import Batch, Predictions, at_least_float32

SPARE = 3  # peaks looked at for each that is wanted
SAME = 0.5  # intersection over union from which two boxes of a class are one object
LARGEST_STEP = 5.0  # of the logarithm of a size in cells: sizes stay finite
LAST = -1e4  # added to the scores of tokens that are chosen only if there is nothing else


@dataclass(frozen=True)
class Cells(Batch):
    """Where N tokens of B images are.

    centres, sizes (B, N, 2): (x, y) in [0, 1] of the image's valid area; valid (B, N) bool, False
    in the padding; spatial_shapes: (height, width) of the levels that they form, finest first.
    """

    centres: Tensor
    sizes: Tensor
    valid: Tensor
    spatial_shapes: tuple[tuple[int, int], ...]

    def by_level(self) -> list[Tensor]:
        """The numbers of the tokens of each level."""
        counts = [height * width for height, width in self.spatial_shapes]
        return list(torch.arange(sum(counts), device=self.valid.device).split(counts))


@dataclass(frozen=True, kw_only=True)
class DensePredictions(Predictions):
    """What all tokens answer, as one layer of predictions, and where they are."""

    cells: Cells


@dataclass(frozen=True)
class DenseProposals(Batch):
    """The Q best local maxima, best first, and the answers of all tokens.

    content (B, Q, C), whose gradient trains its projection only; logits (B, Q, K) and boxes
    (B, Q, 4) in [0, 1], without gradient.
    """

    content: Tensor
    logits: Tensor
    boxes: Tensor
    answers: DensePredictions

    @property
    def codes(self) -> Tensor:
        """The boxes (B, Q, 4) before the sigmoid."""
        return inverse_sigmoid(self.boxes, 1e-3)

    def predictions(self) -> DensePredictions:
        """What the loss looks at: the answers of all tokens."""
        return self.answers


class DenseHeads(nn.Module):
    """Class heat and a box at every token; the best local maxima of the heat become queries.

    Of boxes of one class that overlap by more than ``SAME``, only the best becomes one. Contents
    pass no gradients to the tokens: while the decoder is young, its own disturb the heads'.
    """

    def __init__(self, *, channels: int, num_classes: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.transform = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.class_head = nn.Linear(channels, num_classes)
        self.box_transform = nn.Linear(channels, channels)
        self.box_head = nn.Linear(channels, 4)
        self.content = nn.Linear(channels, channels)
        for head, bias in ((self.class_head, prior_bias()), (self.box_head, 0.0)):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.constant_(head.bias, bias)

    def forward(self, memory: MultiScaleMemory) -> DenseProposals:
        """Proposals of the memory's tokens, as many as asked for or as there are tokens."""
        cells = token_cells(memory)
        tokens = self.norm(F.relu(self.transform(memory.tokens + memory.positions)))
        logits = at_least_float32(self.class_head(tokens))
        answers = self.box_head(F.relu(self.box_transform(tokens)))
        boxes = boxes_in_cells(at_least_float32(answers), cells)
        scores, labels = logits.detach().max(-1)
        scores = scores.masked_fill(~cells.valid, 2 * LAST)
        peaks = best_peaks(scores, memory.spatial_shapes, SPARE * self.count)
        order = distinct(
            scores.gather(1, peaks), labels.gather(1, peaks), take_rows(boxes.detach(), peaks)
        )
        chosen = peaks.gather(1, order[:, : self.count])
        return DenseProposals(
            self.content(take_rows(tokens.detach(), chosen)),
            take_rows(logits.detach(), chosen),
            take_rows(boxes.detach(), chosen),
            DensePredictions(logits.unsqueeze(0), boxes.unsqueeze(0), cells=cells),
        )


def token_cells(memory: MultiScaleMemory) -> Cells:
    """Places of the memory's tokens, float32."""
    shapes, ratios = memory.spatial_shapes, memory.valid_ratios
    sizes = 1 / (ratios * map_sizes(shapes, ratios))  # (B, levels, 2)
    each = [
        size.unsqueeze(1).expand(-1, height * width, -1)
        for (height, width), size in zip(shapes, sizes.unbind(1), strict=True)
    ]
    return Cells(memory.cells, torch.cat(each, dim=1), ~memory.padding, shapes)


def boxes_in_cells(answers: Tensor, cells: Cells) -> Tensor:
    """Boxes (B, N, 4) of answers (B, N, 4): centre from the cell's in cells, log size in cells."""
    centre = cells.centres + cells.sizes * answers[..., :2]
    size = cells.sizes * answers[..., 2:].clamp(-LARGEST_STEP, LARGEST_STEP).exp()
    return torch.cat([centre, size], dim=-1)


def best_peaks(scores: Tensor, shapes: Sequence[tuple[int, int]], count: int) -> Tensor:
    """Tokens (B, Q) whose score (B, N) is the highest of their 3 x 3 neighbours, best first.

    Other tokens follow, in the same order, if there are fewer such than asked for.
    """
    peaks = []
    for (height, width), level in zip(
        shapes, scores.split([height * width for height, width in shapes], dim=1), strict=True
    ):
        grid = level.view(-1, 1, height, width)
        highest = F.max_pool2d(grid, 3, stride=1, padding=1)
        peaks.append(grid.where(grid == highest, grid + LAST).flatten(1))
    best = torch.cat(peaks, dim=1)
    return best.topk(min(count, best.shape[1]), dim=1).indices


def distinct(scores: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
    """Order (B, M) of boxes (B, M, 4), best first: duplicates come after all others.

    A duplicate overlaps a better box of the same class (fast non-maximum suppression, Bolya et
    al., YOLACT, ICCV 2019, section 5).
    """
    corners = to_corners(boxes)
    shared, _ = overlaps(corners.unsqueeze(2), corners.unsqueeze(1))
    better = scores.unsqueeze(1) > scores.unsqueeze(2)  # [b, i, j]: j is better than i
    same = labels.unsqueeze(1) == labels.unsqueeze(2)
    twice = (better & same & (shared > SAME)).any(-1)
    return (scores + LAST * twice).argsort(dim=1, descending=True)
