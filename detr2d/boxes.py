"""What a box is: the protocol that lets one matcher and one criterion serve 2D and 3D.

A 2D box is (centre x, centre y, width, height) in [0, 1] of the image's valid area. Geometry is
done on its corners (left, top, right, bottom).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from detr2d.structures import at_least_float32

SMALLEST_AREA = 1e-30  # of two boxes without any area, so that 0 / 0 is 0; never met otherwise


class BoxCodec(Protocol):
    """One parametrisation of boxes: how they are written as codes, compared and trained.

    A box (..., D_box) is what data sets hold and users see; a code (..., D) is what a network
    predicts. ``costs`` and ``losses`` name the same terms, so that weights can be checked by name.
    """

    code_size: int
    terms: tuple[str, ...]

    def encode(self, boxes: Tensor) -> Tensor:
        """Codes (..., D) of boxes (..., D_box)."""

    def decode(self, codes: Tensor) -> Tensor:
        """Boxes (..., D_box) of codes (..., D)."""

    def costs(self, codes: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Matching costs by term: codes (..., Q, D) against targets' (..., T, D): (..., Q, T)."""

    def losses(self, codes: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Losses by term of matched pairs: codes (M, D) against target codes (M, D): (M,)."""


def to_corners(boxes: Tensor) -> Tensor:
    """(left, top, right, bottom) of (centre x, centre y, width, height), both (..., 4)."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def from_corners(corners: Tensor) -> Tensor:
    """(centre x, centre y, width, height) of (left, top, right, bottom), both (..., 4)."""
    first, last = corners.split(2, dim=-1)
    return torch.cat([(first + last) / 2, last - first], dim=-1)


def to_pixels(boxes: Tensor, image_size: Tensor) -> Tensor:
    """Corners (..., 4) in pixels of normalised boxes (..., 4); image_size (2,): height, width.

    Nothing is clipped to the image, as in DETR's released post-processing.
    """
    return to_corners(boxes) * image_size.flip(0).repeat(2).to(boxes)


def overlaps(corners: Tensor, others: Tensor, slack: float = 0.0) -> tuple[Tensor, Tensor]:
    """Intersection over union and its generalised form of two broadcastable (..., 4): (...).

    ``slack`` is added to what is divided by (1e-6 in DINO's released code).
    Generalised IoU (Rezatofighi et al., CVPR 2019) subtracts the part of the enclosing box that
    neither covers, so that boxes apart still have a gradient.
    """
    shared = torch.minimum(corners[..., 2:], others[..., 2:]) - torch.maximum(
        corners[..., :2], others[..., :2]
    )
    hull = torch.maximum(corners[..., 2:], others[..., 2:]) - torch.minimum(
        corners[..., :2], others[..., :2]
    )
    intersection = _product(shared.clamp(min=0))
    union = _area(corners) + _area(others) - intersection
    enclosing = _product(hull.clamp(min=0)).clamp(min=SMALLEST_AREA)
    # Adding zero would be a kernel each.
    divisors = (union + slack, enclosing + slack) if slack else (union, enclosing)
    iou = intersection / divisors[0].clamp(min=SMALLEST_AREA)
    return iou, iou - (enclosing - union) / divisors[1]


def _area(corners: Tensor) -> Tensor:
    return _product(corners[..., 2:] - corners[..., :2])


def _product(sizes: Tensor) -> Tensor:
    """Width times height of (..., 2). The gradient of ``prod`` would take ten kernels."""
    width, height = sizes.unbind(-1)
    return width * height


class NormalizedBox2D:
    """Code of 4 that is the box itself: (centre x, centre y, width, height), each in [0, 1].

    Systems write it through a sigmoid. Costs and losses are DETR's (section 3.1, eq. 9 and 10):
    L1 and 1 - generalised IoU; the cost leaves out the constant 1. ``slack`` as in ``overlaps``.
    """

    code_size = 4
    terms: tuple[str, ...] = ("l1", "giou")

    def __init__(self, slack: float = 0.0) -> None:
        self.slack = slack

    def encode(self, boxes: Tensor) -> Tensor:
        """The boxes (..., 4) themselves."""
        return boxes

    def decode(self, codes: Tensor) -> Tensor:
        """The codes (..., 4) themselves."""
        return codes

    def costs(self, codes: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``l1``, the sum of absolute differences, and ``giou``, negated: (..., Q, T)."""
        codes = at_least_float32(codes)
        targets = targets.to(codes.dtype)
        _, giou = overlaps(
            to_corners(codes).unsqueeze(-2), to_corners(targets).unsqueeze(-3), self.slack
        )
        return {"l1": torch.cdist(codes, targets, p=1), "giou": -giou}

    def losses(self, codes: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``l1``, the sum of absolute differences, and ``giou``, one minus it: (M,)."""
        codes = at_least_float32(codes)
        targets = targets.to(codes.dtype)
        _, giou = overlaps(to_corners(codes), to_corners(targets), self.slack)
        return {"l1": (codes - targets).abs().sum(-1), "giou": 1 - giou}
