from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from detr2d.segments import binary_masks, merge_segments, pixel_logits, resize_ids
from detr2d.structures import MaskPredictions, Segments


def bands(*heights: int, width: int = 10) -> Tensor:
    """Logits (S, H, W): mask s wins its horizontal band, and only there."""
    rows = torch.repeat_interleave(torch.arange(len(heights)), torch.tensor(heights))
    return (
        torch.where(rows.unsqueeze(-1) == torch.arange(len(heights)), 5.0, -5.0)
        .T.unsqueeze(-1)
        .expand(-1, -1, width)
    )


def merge(logits: Tensor, labels: list[int], stuff: list[bool]) -> Segments:
    count, *size = logits.shape
    scores = torch.linspace(0.9, 0.5, count)
    return merge_segments(
        logits, torch.tensor(labels), scores, torch.tensor(stuff), (size[0], size[1])
    )


def test_every_pixel_goes_to_the_largest_logit() -> None:
    found = merge(bands(2, 3, 5), [7, 8, 7], [False, False, False])
    assert found.labels.tolist() == [7, 8, 7]
    assert found.id_map[:, 0].tolist() == [1, 1, 2, 2, 2, 3, 3, 3, 3, 3]


def test_segments_of_four_pixels_and_less_are_given_away() -> None:
    logits = bands(1, 9, width=4)
    found = merge(logits, [7, 8], [False, False])
    assert found.labels.tolist() == [8] and bool((found.id_map == 1).all())
    assert len(merge(bands(1, 9, width=5), [7, 8], [False, False])) == 2


def test_masks_of_one_stuff_class_count_as_one_and_things_do_not() -> None:
    stuff = merge(bands(3, 4, 3), [9, 1, 9], [True, False, True])
    assert stuff.labels.tolist() == [9, 1]
    things = merge(bands(3, 4, 3), [9, 1, 9], [False, False, False])
    assert things.labels.tolist() == [9, 1, 9]


def test_no_masks_give_no_segments() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    found = merge_segments(torch.zeros(0, 6, 8), nothing, torch.zeros(0), nothing.bool(), (12, 16))
    assert len(found) == 0 and found.id_map.shape == (12, 16) and not found.id_map.any()


@pytest.mark.parametrize("size", [(224, 240), (240, 224), (199, 222), (37, 1000), (64, 1)])
def test_ids_are_resized_as_pil_does(size: tuple[int, int]) -> None:
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (224, 199)))
    image = Image.fromarray(ids.numpy().astype(np.uint8))
    expected = np.array(image.resize((size[1], size[0]), Image.Resampling.NEAREST))
    assert np.array_equal(resize_ids(ids, size).numpy(), expected)


def test_masks_are_cropped_to_the_valid_area_before_they_are_resized() -> None:
    logits = torch.full((1, 2, 4, 4), -5.0)
    logits[0, 1, :2, :2] = 5.0
    masks = MaskPredictions(
        logits, (16, 16), torch.tensor([[8.0, 16.0]]), torch.tensor([[4.0, 8.0]])
    )
    pixels = pixel_logits(masks, 0, torch.tensor([1, 0]))
    assert pixels.shape == (2, 8, 16)
    binary = binary_masks(pixels, (4, 8))
    assert binary[0, :, :4].all() and not binary[0, :, 4:].any() and not binary[1].any()
