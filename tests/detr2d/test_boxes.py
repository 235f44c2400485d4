from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detr2d.boxes import NormalizedBox2D, from_corners, overlaps, to_corners, to_pixels

CODEC = NormalizedBox2D()


def boxes(*shape: int) -> Tensor:
    return torch.cat([torch.rand(*shape, 2) * 0.4 + 0.3, torch.rand(*shape, 2) * 0.3 + 0.05], -1)


def test_corners_and_back_return_the_box() -> None:
    there = boxes(5, 3)
    torch.testing.assert_close(from_corners(to_corners(there)), there)


def test_pixels_are_computed_by_hand() -> None:
    box = torch.tensor([0.5, 0.25, 0.2, 0.5])
    expected = torch.tensor([0.4 * 200, 0.0, 0.6 * 200, 0.5 * 100])
    torch.testing.assert_close(to_pixels(box, torch.tensor([100.0, 200.0])), expected)


@pytest.mark.parametrize(
    "other, iou, giou",
    [
        ([0.0, 0.0, 2.0, 2.0], 1.0, 1.0),
        ([1.0, 0.0, 3.0, 2.0], 2 / 6, 2 / 6),
        ([1.0, 1.0, 3.0, 3.0], 1 / 7, 1 / 7 - 2 / 9),
        ([3.0, 0.0, 4.0, 2.0], 0.0, -2 / 8),
        ([2.0, 2.0, 2.0, 2.0], 0.0, 0.0),
    ],
    ids=["itself", "side by side", "at a corner", "apart", "a point"],
)
def test_overlaps_are_computed_by_hand(other: list[float], iou: float, giou: float) -> None:
    found = overlaps(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor(other))
    assert [float(value) for value in found] == pytest.approx([iou, giou])


def test_overlaps_are_symmetric_and_bounded() -> None:
    first, second = to_corners(boxes(20)).unsqueeze(1), to_corners(boxes(30))
    iou, giou = overlaps(first, second)
    torch.testing.assert_close(torch.stack(overlaps(second, first)), torch.stack([iou, giou]))
    assert bool((giou >= -1).all() and (giou <= iou + 1e-6).all() and (iou <= 1).all())


def test_two_points_in_one_place_give_finite_values_and_gradients() -> None:
    point = torch.full((1, 4), 0.5, requires_grad=True)
    iou, giou = overlaps(point, torch.full((1, 4), 0.5))
    (iou + giou).sum().backward()
    assert bool(torch.isfinite(giou).all() and torch.isfinite(point.grad).all())


def test_boxes_apart_attract_each_other() -> None:
    codes = torch.tensor([[0.2, 0.5, 0.1, 0.1]], requires_grad=True)
    CODEC.losses(codes, torch.tensor([[0.8, 0.5, 0.1, 0.1]]))["giou"].sum().backward()
    assert codes.grad[0, 0] < 0  # downhill is to the right


def test_codes_are_boxes() -> None:
    there = boxes(7)
    assert torch.equal(CODEC.decode(CODEC.encode(there)), there)


def test_costs_are_losses_of_all_pairs_without_the_constant() -> None:
    codes, targets = boxes(2, 3, 6), boxes(3, 4)
    costs = CODEC.costs(codes, targets)
    pairs = CODEC.losses(
        codes.unsqueeze(-2).expand(2, 3, 6, 4, 4).reshape(-1, 4),
        targets.unsqueeze(-3).expand(2, 3, 6, 4, 4).reshape(-1, 4),
    )
    torch.testing.assert_close(costs["l1"].flatten(), pairs["l1"])
    torch.testing.assert_close(costs["giou"].flatten() + 1, pairs["giou"])


def test_losses_of_half_precision_codes_are_float32() -> None:
    losses = CODEC.losses(boxes(3).bfloat16(), boxes(3))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
