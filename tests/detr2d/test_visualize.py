"""Pictures show boxes, masks and names where they are."""

from __future__ import annotations

import pytest
import torch

from detr2d.labels import ink_on
from detr2d.structures import Detections, Segments, Targets
from detr2d.visualize import (
    CLASS_COLORS,
    class_color,
    draw_detections,
    draw_segments,
    draw_targets,
)

GREY = torch.full((3, 200, 300), 100, dtype=torch.uint8)


def one_box(box: list[float], masks: torch.Tensor | None = None) -> Detections:
    return Detections(
        torch.tensor([0.8]), torch.tensor([1]), torch.tensor([box]), torch.tensor([0]), masks
    )


def test_a_box_is_outlined_in_the_colour_of_its_class() -> None:
    picture = draw_detections(GREY, one_box([0.5, 0.5, 0.4, 0.6]), ("cat", "dog"))
    assert picture.shape == GREY.shape and picture.dtype == torch.uint8
    for x, y in ((90, 120), (210, 120), (150, 160)):  # left, right, bottom edge
        assert tuple(picture[:, y, x].tolist()) == class_color(1)
    assert picture[:, 100, 150].tolist() == [100, 100, 100]
    assert bool((GREY == 100).all())


def test_the_name_stands_on_a_plate_above_the_box() -> None:
    picture = draw_detections(GREY, one_box([0.5, 0.5, 0.4, 0.6]), ("cat", "dog"))
    plate = picture[:, 30:38, 92:130]
    inside = (plate == torch.tensor(class_color(1))[:, None, None]).all(0)
    assert 0.3 < float(inside.float().mean()) < 1  # the rest is ink


@pytest.mark.parametrize("box", [[0.5, 0.02, 0.9, 0.1], [1.0, 0.5, 0.2, 0.2], [0.5, 1.2, 3, 0.4]])
def test_boxes_at_and_over_the_border_are_drawn(box: list[float]) -> None:
    picture = draw_detections(GREY, one_box(box), ("cat", "dog"))
    assert picture.shape == GREY.shape and bool((picture != 100).any())


def test_masks_tint_their_pixels() -> None:
    masks = torch.zeros(1, 200, 300, dtype=torch.bool)
    masks[0, 80:120, 100:200] = True
    picture = draw_detections(GREY, one_box([0.5, 0.5, 0.9, 0.9], masks), ("cat", "dog"))
    assert picture[:, 100, 150].tolist() != [100, 100, 100]
    assert picture[:, 150, 150].tolist() == [100, 100, 100]


def test_no_object_leaves_the_image_as_it_is() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    targets = Targets(empty, torch.zeros(0, 4), torch.zeros(0, 200, 300, dtype=torch.bool))
    assert torch.equal(draw_targets(GREY, targets, ("cat",)), GREY)
    segments = Segments(torch.zeros(200, 300, dtype=torch.int64), empty, torch.zeros(0))
    assert torch.equal(draw_segments(GREY, segments, ("cat",)), GREY)


def test_segments_are_tinted_outlined_and_named() -> None:
    id_map = torch.zeros(200, 300, dtype=torch.int64)
    id_map[:, 150:] = 1
    segments = Segments(id_map, torch.tensor([2]), torch.ones(1))
    picture = draw_segments(GREY, segments, ("cat", "dog", "sky"))
    assert picture[:, 20, 20].tolist() == [100, 100, 100]
    assert picture[:, 20, 150].tolist() == [255, 255, 255]
    assert picture[:, 20, 250].tolist() not in ([100, 100, 100], [255, 255, 255])
    assert (picture == torch.tensor(class_color(2))[:, None, None]).all(0).sum() > 100


@pytest.mark.parametrize("color", CLASS_COLORS)
def test_names_read_well_on_their_plate(color: tuple[int, int, int]) -> None:
    def luminance(c: tuple[int, int, int]) -> float:
        red, green, blue = ((v / 255) ** 2.2 for v in c)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    bright, dark = sorted((luminance(color), luminance(ink_on(color))), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) > 4.5  # WCAG contrast for text
