"""Training of dense proposals: what every token should answer, and how wrong it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detr2d.accumulation import Divisor
from detr2d.boxes import overlaps, to_corners
from detr2d.criterion import count_objects
from detr2d.dense_proposals import Cells, DensePredictions
from detr2d.losses import heat_losses
from detr2d.structures import ImageBatch, Targets

LARGEST = 6.0  # cells: the longer side of the objects that belong to the finest level
REACH = (1.0, 1.5)  # cells: how far from a small and a large object's centre its box is asked for
BELL = (0.6, 2.5)  # cells: narrowest and widest deviation of an object's heat
LEAST = 0.01  # heat below this is none
CLASS_WEIGHT, BOX_WEIGHT, GIOU_WEIGHT = 1.5, 0.2, 0.4


class DenseLoss:
    """Penalty-reduced focal loss of the class heat; relative L1 and generalised IoU of boxes.

    An object belongs to the level on which its longer side is at most ``LARGEST`` cells, as in FPN
    (Lin et al., CVPR 2017, eq. 1). Its heat is a bell of a third of its half sizes, 1 at the cell
    of its centre. Its box is asked for in the middle half of the box, but at least and at most so
    many cells from the centre as ``REACH`` says: the best cell may be the one beside a small
    object's. Where two objects claim a cell the smaller one has it. All sums are divided by the
    number of objects, averaged over processes.
    """

    def __call__(
        self, predictions: DensePredictions, targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """``class``, ``box`` and ``overlap``: weighted scalars."""
        logits, boxes, cells = predictions.logits[0], predictions.codes[0], predictions.cells
        heat, wanted, asked = paint(cells, targets, logits.shape[-1])
        burnt = (heat_losses(logits, heat).sum(-1) * cells.valid).sum()
        found, wanted = boxes[asked], wanted.to(boxes)
        _, giou = overlaps(to_corners(found), to_corners(wanted))
        off = relative_distance(found, wanted, cells.sizes[asked])
        objects = count_objects(targets, boxes).value()
        return {
            "class": CLASS_WEIGHT * burnt / objects,
            "box": BOX_WEIGHT * off.sum() / objects,
            "overlap": GIOU_WEIGHT * (1 - giou).sum() / objects,
        }

    def divisors(self, predictions: DensePredictions, batch: ImageBatch) -> dict[str, Divisor]:
        """What each term of a batch is divided by."""
        objects = count_objects(batch.targets or (), predictions.codes)
        return dict.fromkeys(("class", "box", "overlap"), objects)


def relative_distance(boxes: Tensor, others: Tensor, cell: Tensor) -> Tensor:
    """L1 of centres in cells of size (M, 2), and of log sizes: (M,) of boxes (M, 4)."""
    centre = (boxes[:, :2] - others[:, :2]).abs() / cell
    size = (boxes[:, 2:].log() - others[:, 2:].log()).abs()
    return (centre + size).sum(-1)


@torch.no_grad()
def paint(
    cells: Cells, targets: Sequence[Targets], num_classes: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """What tokens should answer: heat (B, N, K) in [0, 1]; boxes (M, 4) for M cells, and which.

    The last output is the (images, tokens) of these cells, both (M,).
    """
    batch, tokens = cells.valid.shape
    boxes = torch.cat([target.boxes for target in targets]).to(cells.sizes)
    labels = torch.cat([target.labels for target in targets]).to(boxes.device)
    image = torch.cat([labels.new_full((len(target),), i) for i, target in enumerate(targets)])
    order = boxes[:, 2:].prod(-1).argsort()  # the smaller object is the earlier one
    boxes, labels, image = boxes[order], labels[order], image[order]
    heat = boxes.new_zeros(batch * tokens * num_classes)
    owner = labels.new_full((batch * tokens,), len(boxes))
    levels = object_levels(boxes, cells.sizes[image, 0], len(cells.spatial_shapes) - 1)
    for level, token in enumerate(cells.by_level()):
        of_level = (levels == level).nonzero()[:, 0]
        if not len(of_level):
            continue
        home = image[of_level]
        bell, inside = bells(boxes[of_level], home, cells, token)
        place = home.unsqueeze(1) * tokens + token  # (T, n) among all tokens of all images
        seen = bell > LEAST
        index = place * num_classes + labels[of_level].unsqueeze(1)
        heat.scatter_reduce_(0, index[seen], bell[seen], "amax")
        claims = of_level.unsqueeze(1).expand_as(place)
        owner.scatter_reduce_(0, place[inside], claims[inside], "amin")
    asked = owner < len(boxes)
    which = asked.view(batch, tokens).nonzero(as_tuple=True)
    return heat.view(batch, tokens, num_classes), boxes[owner[asked]], (which[0], which[1])


def bells(boxes: Tensor, image: Tensor, cells: Cells, token: Tensor) -> tuple[Tensor, Tensor]:
    """Heat (T, n) that objects give to the n tokens of their level, and which are asked for them.

    boxes (T, 4) and the image (T,) of each object; the padding has neither.
    """
    size, valid = cells.sizes[image][:, token[:1]], cells.valid[image][:, token]
    away = (cells.centres[image][:, token] - boxes[:, None, :2]).abs() / size  # (T, n, 2)
    half = 0.5 * boxes[:, None, 2:] / size
    bell = torch.exp(-0.5 * (away / (half / 3).clamp(*BELL)).square().sum(-1))
    bell = bell.scatter(1, away.square().sum(-1).argmin(-1, keepdim=True), 1.0)
    inside = (away <= (0.5 * half).clamp(*REACH)).all(-1)
    return bell * valid, inside & valid


def object_levels(boxes: Tensor, finest: Tensor, coarsest: int) -> Tensor:
    """Level (M,) of each object: the finest on which its longer side has ``LARGEST`` cells.

    boxes (M, 4); finest (M, 2): size of the finest cells, which double from level to level;
    level ``coarsest`` has all that are larger.
    """
    side = (boxes[:, 2:] / finest).amax(-1)
    return (side / LARGEST).clamp(min=1).log2().ceil().clamp(max=coarsest).long()
