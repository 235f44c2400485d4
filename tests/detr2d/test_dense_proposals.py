from __future__ import annotations

import pytest
import torch

from detr2d.deformable import PyramidTokens
from detr2d.dense_loss import DenseLoss, object_levels, paint
from detr2d.dense_proposals import DenseHeads, best_peaks, boxes_in_cells, distinct, token_cells
from detr2d.images import valid_pixels
from detr2d.positions import SinePositions
from detr2d.structures import FeaturePyramid, Targets


def memory(size: tuple[float, float] = (64.0, 64.0)):
    """Levels of 16 x 16 and 8 x 8 cells on a canvas of 64 x 64 pixels."""
    padding = ~valid_pixels(torch.tensor([size]), 64, 64)
    maps = FeaturePyramid((torch.randn(1, 8, 16, 16), torch.randn(1, 8, 8, 8)))
    return PyramidTokens(SinePositions(8), levels=2, channels=8)(maps, padding)


def heads(count: int = 5) -> DenseHeads:
    return DenseHeads(channels=8, num_classes=3, count=count)


def target(*boxes: list[float], labels: list[int] | None = None) -> Targets:
    numbers = torch.tensor(labels or [0] * len(boxes), dtype=torch.int64)
    return Targets(boxes=torch.tensor(boxes).view(-1, 4), labels=numbers)


def test_cells_are_as_large_as_the_valid_area_makes_them() -> None:
    cells = token_cells(memory((64.0, 32.0)))  # the right half is padding
    assert cells.sizes[0, 0].tolist() == [1 / 8, 1 / 16] and cells.sizes[0, -1].tolist() == [
        0.25,
        0.125,
    ]
    assert [len(tokens) for tokens in cells.by_level()] == [256, 64]
    assert int(cells.valid.sum()) == 16 * 8 + 8 * 4


def test_boxes_are_written_in_cells() -> None:
    cells = token_cells(memory())
    answers = torch.zeros(1, 320, 4)
    answers[0, 0] = torch.tensor([1.0, -0.5, 2.0, 0.0]).where(
        torch.tensor([True, True, False, True]), torch.tensor(2.0).log()
    )
    boxes = boxes_in_cells(answers, cells)
    torch.testing.assert_close(boxes[0, 0], torch.tensor([1.5, 0.0, 2.0, 1.0]) / 16)
    torch.testing.assert_close(boxes[0, 256], torch.tensor([0.5, 0.5, 1.0, 1.0]) / 8)


def test_only_local_maxima_are_chosen_best_first() -> None:
    scores = torch.zeros(1, 20) - 9
    scores[0, [5, 6, 15, 18]] = torch.tensor([3.0, 2.0, 1.0, 4.0])  # 6 lies beside 5
    assert best_peaks(scores, [(4, 4), (2, 2)], 3)[0].tolist() == [18, 5, 15]


def test_padding_is_not_chosen_and_changes_nothing() -> None:
    looked, block = memory((64.0, 32.0)), heads(40)
    found = block(looked)
    assert bool((found.boxes[..., 0] < 1).all())  # untrained boxes lie at their cells
    other = heads(40)
    other.load_state_dict(block.state_dict())
    noise = torch.randn_like(looked.tokens) * looked.padding.unsqueeze(-1)
    moved = type(looked)(**{**vars(looked), "tokens": looked.tokens + noise})
    same = other(moved)
    for name in ("content", "logits", "boxes"):
        torch.testing.assert_close(getattr(same, name), getattr(found, name))


def test_duplicates_of_a_class_come_last() -> None:
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    labels = torch.tensor([[0, 0, 1, 0, 0]])
    left, right = [0.3, 0.5, 0.2, 0.2], [0.7, 0.5, 0.2, 0.2]
    near = [0.32, 0.5, 0.2, 0.2]  # shares 0.18 of 0.22 with the left one
    boxes = torch.tensor([[left, near, left, right, [0.44, 0.5, 0.2, 0.2]]])
    # The third has another class, the fourth lies elsewhere, the fifth shares a quarter at most.
    assert distinct(scores, labels, boxes)[0].tolist() == [0, 2, 3, 4, 1]


def test_padding_that_overlaps_nothing_stays_behind_duplicates() -> None:
    scores = torch.tensor([[3.0, 2.0, -2e4]])
    boxes = torch.tensor([[[0.3, 0.5, 0.2, 0.2]] * 2 + [[2.0, 0.5, 0.1, 0.1]]])
    assert distinct(scores, torch.zeros(1, 3).long(), boxes)[0].tolist() == [0, 1, 2]


def test_fewer_tokens_than_queries_are_all_chosen() -> None:
    assert heads(1000)(memory()).boxes.shape == (1, 320, 4)


def test_objects_belong_to_the_level_that_has_few_cells_for_them() -> None:
    boxes = torch.tensor([[0.5, 0.5, 6 / 16, 0.1], [0.5, 0.5, 0.1, 7 / 16], [0.5, 0.5, 1, 1]])
    finest = torch.full((3, 2), 1 / 16)
    assert object_levels(boxes, finest, 1).tolist() == [0, 1, 1]
    assert object_levels(boxes, finest, 3).tolist() == [0, 1, 2]


def test_heat_is_one_at_the_centre_and_falls_with_the_distance() -> None:
    cells = token_cells(memory())
    true = target([8.5 / 16, 8.5 / 16, 4 / 16, 4 / 16], labels=[2])
    heat, boxes, (_, asked) = paint(cells, [true], 3)
    grid = heat[0, :256, 2].view(16, 16)
    assert grid[8, 8] == 1 and int((heat == 1).sum()) == 1
    torch.testing.assert_close(grid[8, 9], torch.tensor(-0.5 / (2 / 3) ** 2).exp())
    assert grid[8, 9] > grid[9, 9] > grid[8, 11] and not heat[0, 256:].any()
    assert not heat[..., :2].any()
    assert asked.tolist() == [row * 16 + column for row in (7, 8, 9) for column in (7, 8, 9)]
    torch.testing.assert_close(boxes, true.boxes.expand(9, -1))


def test_cells_next_to_a_small_objects_centre_know_its_box_too() -> None:
    cells = token_cells(memory())
    true = target([8.9 / 16, 8.2 / 16, 0.5 / 16, 0.5 / 16])
    _, _, (_, asked) = paint(cells, [true], 3)
    assert asked.tolist() == [row * 16 + column for row in (7, 8) for column in (8, 9)]


def test_the_smaller_of_two_objects_has_the_cells_that_both_claim() -> None:
    cells = token_cells(memory())
    true = target([0.53, 0.53, 0.3, 0.3], [0.53, 0.53, 0.1, 0.1])
    _, boxes, (_, asked) = paint(cells, [true], 3)
    sizes = dict(zip(asked.tolist(), boxes[:, 2].tolist(), strict=True))
    assert sizes[8 * 16 + 8] == pytest.approx(0.1) and sizes[9 * 16 + 9] == pytest.approx(0.3)


def test_loss_of_the_right_answers_is_small_and_falls_by_training() -> None:
    looked, block, loss = memory(), heads(), DenseLoss()
    true = [target([0.3, 0.3, 0.2, 0.1], [0.7, 0.6, 0.5, 0.4], labels=[0, 1])]
    optimizer = torch.optim.Adam(block.parameters(), 0.03)
    first = sum(loss(block(looked).answers, true).values())
    for _ in range(150):
        optimizer.zero_grad()
        value = sum(loss(block(looked).answers, true).values())
        value.backward(retain_graph=True)
        optimizer.step()
    assert value.item() < 0.2 * first.item()
    best = block(looked)
    torch.testing.assert_close(
        best.boxes[0, :2].sort(0)[0], true[0].boxes.sort(0)[0], atol=0.03, rtol=0
    )


def test_boxes_that_are_right_cost_nothing() -> None:
    answers = heads()(memory()).answers
    true = [target([0.3, 0.3, 0.2, 0.1])]
    exact = type(answers)(answers.logits, true[0].boxes.expand(1, 1, 320, 4), cells=answers.cells)
    losses = DenseLoss()(exact, true)
    assert float(losses["box"]) == pytest.approx(0, abs=1e-5)
    assert float(losses["overlap"]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("true", [[target()], [target([0.5, 0.5, 1e-5, 1e-5])]])
def test_no_object_and_objects_without_area_have_finite_losses(true) -> None:
    block = heads()
    losses = DenseLoss()(block(memory()).answers, true)
    total = sum(losses.values())
    total.backward()
    assert all(bool(value.isfinite()) for value in losses.values())
    assert all(bool(p.grad.isfinite().all()) for p in block.parameters() if p.grad is not None)
