"""DETR's recipe: sizes by hand, and image, boxes and masks that stay together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detr2d.data.transforms import (
    LabelledImage,
    Resolution,
    augment,
    crop_window,
    fit_size,
    label_image,
    prepare_image,
    scaled_resolution,
    to_batch,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rectangles() -> LabelledImage:
    """Three filled rectangles that do not touch, each of its own grey level, with their masks."""
    boxes = torch.tensor([[10, 10, 40, 30], [50, 60, 90, 110], [5, 70, 30, 118]])
    image = torch.zeros(3, 120, 100, dtype=torch.uint8)
    masks = torch.zeros(3, 120, 100, dtype=torch.bool)
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        image[:, y1:y2, x1:x2] = 80 * (index + 1)
        masks[index, y1:y2, x1:x2] = True
    return label_image(image, boxes.float(), torch.tensor([4, 7, 9]), masks)


def extent(mask: Tensor) -> list[int]:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    first, last = [columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]
    return [int(v) for v in (*first, *last)]


@pytest.mark.parametrize(
    ("size", "shortest", "longest", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1066)),  # DETR's usual size
        ((640, 480), 800, 1333, (1066, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((300, 900), 800, 1333, (444, 1332)),  # the longer side decides: 1333 / 3 = 444.33
        ((100, 100), 800, 1333, (800, 800)),
        ((1, 5000), 800, 1333, (1, 5000)),
    ],
)
def test_fit_size_follows_detr(
    size: tuple[int, int], shortest: int, longest: int, expected: tuple[int, int]
) -> None:
    assert fit_size(size, shortest, longest) == expected


@pytest.mark.parametrize("seed", range(12))
def test_image_boxes_and_masks_move_together(seed: int) -> None:
    changed = augment(rectangles(), scaled_resolution(160), seeded(seed))
    height, width = changed.size
    assert changed.masks is not None and changed.masks.shape[1:] == (height, width)
    for box, mask, label in zip(changed.boxes, changed.masks, changed.labels, strict=True):
        assert extent(mask) == pytest.approx(box.tolist(), abs=2.5)
        level = {4: 80, 7: 160, 9: 240}[int(label)]
        assert float(changed.image[0][mask].max()) == pytest.approx(level, abs=2)


def test_augmentation_depends_on_the_generator_only() -> None:
    resolution = scaled_resolution(160)
    first, again, other = (augment(rectangles(), resolution, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first.image, again.image) and torch.equal(first.boxes, again.boxes)
    assert first.size != other.size or not torch.equal(first.image, other.image)


def test_training_sizes_come_from_the_recipe() -> None:
    resolution = Resolution(shortest=64, longest=100, training_shortest=(48, 64), before_crop=(40,))
    resolution = Resolution(**{**vars(resolution), "crop": (20, 30)})
    sizes = {min(augment(rectangles(), resolution, seeded(s)).size) for s in range(40)}
    assert {48, 64} <= sizes and max(sizes) == 64
    assert all(max(augment(rectangles(), resolution, seeded(s)).size) <= 100 for s in range(10))


def test_mirroring_twice_returns_the_same() -> None:
    sample = rectangles()
    twice = sample.flipped().flipped()
    assert torch.equal(twice.image, sample.image) and torch.equal(twice.boxes, sample.boxes)
    assert sample.flipped().boxes[0].tolist() == [60, 10, 90, 30]


def test_crop_cuts_boxes_and_drops_objects_outside() -> None:
    cropped = rectangles().cropped(20, 0, 60, 60)
    assert cropped.labels.tolist() == [4, 7, 9]
    assert cropped.boxes.tolist() == [[10, 0, 40, 10], [50, 40, 60, 60], [5, 50, 30, 60]]
    assert cropped.masks is not None and int(cropped.masks[0].sum()) == 30 * 10
    assert rectangles().cropped(0, 0, 20, 50).labels.tolist() == [4]
    assert len(rectangles().cropped(0, 45, 50, 55).boxes) == 0


@pytest.mark.parametrize("seed", range(5))
def test_crop_window_lies_in_the_image(seed: int) -> None:
    top, left, height, width = crop_window((70, 30), (40, 60), seeded(seed))
    assert 40 <= height <= 60 and width == 30
    assert 0 <= top <= 70 - height and left == 0


def test_boxes_without_area_are_dropped_and_others_cut_at_the_border() -> None:
    boxes = torch.tensor([[-5.0, 2, 4, 30], [3, 3, 3, 9], [12, 0, 20, 5]])
    labelled = label_image(torch.zeros(3, 20, 10, dtype=torch.uint8), boxes, torch.arange(3))
    assert labelled.boxes.tolist() == [[0, 2, 4, 20]] and labelled.labels.tolist() == [0]


def test_batch_boxes_are_normalised_centres() -> None:
    batch = to_batch(rectangles(), "7", (240, 200))
    assert batch.targets is not None
    assert batch.targets[0].boxes[0].tolist() == pytest.approx([0.25, 1 / 6, 0.3, 1 / 6])
    assert batch.image_sizes.tolist() == [[120, 100]]
    assert batch.original_sizes.tolist() == [[240, 200]]


def test_image_without_annotations_is_resized_for_evaluation() -> None:
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    batch = prepare_image(image, "x.jpg", scaled_resolution(80))
    assert batch.images.shape == (1, 3, 80, 106) and batch.images.dtype == torch.uint8
    assert batch.targets is None and batch.original_sizes.tolist() == [[48, 64]]


@pytest.mark.parametrize(
    "wrong", [{"shortest": 0}, {"crop": (9, 8)}, {"longest": 10}, {"training_shortest": ()}]
)
def test_impossible_resolutions_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Resolution(**wrong)  # type: ignore[arg-type]
