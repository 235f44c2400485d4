"""From coarse mask logits to masks and panoptic segments at the original image size."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from detr2d.structures import MaskPredictions, Segments

SMALLEST_SEGMENT = 4  # pixels; segments of at most so many are given to others (released code)


def pixel_logits(masks: MaskPredictions, image: int, queries: Tensor) -> Tensor:
    """Mask logits (N, H, W) of some queries (N,) over the valid area of one image.

    Upsampled bilinearly to the canvas, then cropped. DETR's released panoptic merging squeezes
    padded maps into the valid area instead, which is the same only without padding.
    """
    height, width = (int(side) for side in masks.image_sizes[image].tolist())
    logits = masks.logits[image, queries].unsqueeze(1)
    return F.interpolate(logits, masks.canvas, mode="bilinear")[:, 0, :height, :width]


def binary_masks(logits: Tensor, original_size: tuple[int, int]) -> Tensor:
    """Masks (N, H, W) bool at the original size of pixel logits (N, h, w): probability over 0.5."""
    small = (logits > 0).unsqueeze(1).to(torch.uint8)
    return F.interpolate(small, original_size, mode="nearest").squeeze(1).bool()


def merge_segments(
    logits: Tensor, labels: Tensor, scores: Tensor, stuff: Tensor, original_size: tuple[int, int]
) -> Segments:
    """Segments of S masks (S, h, w): each pixel goes to the largest logit (DETR, section 4.4).

    Masks of one stuff class are joined; then segments too small to see are dropped and their
    pixels go to the next best, until none is left. As in the released code, masks that were joined
    to another count as empty then, so they are dropped too and their pixels go to the next best.
    labels, scores, stuff (S,), the last bool.
    """
    owner = logits.argmax(0) if len(logits) else logits.new_zeros(logits.shape[1:]).long()
    owner = resize_ids(join_stuff(owner, labels, stuff), original_size)
    while len(labels):
        large = owner.flatten().bincount(minlength=len(labels)) > SMALLEST_SEGMENT
        if large.all():
            return Segments(owner + 1, labels, scores)
        logits, labels, scores = logits[large], labels[large], scores[large]
        if len(labels):
            owner = resize_ids(logits.argmax(0), original_size)
    return Segments(torch.zeros_like(owner), labels, scores)


def join_stuff(owner: Tensor, labels: Tensor, stuff: Tensor) -> Tensor:
    """Give pixels (h, w) of every stuff mask to the first mask of the same class."""
    if not len(labels):
        return owner
    first = (labels.unsqueeze(1) == labels).int().argmax(1)  # of each mask's class
    return torch.where(stuff, first, torch.arange(len(labels), device=labels.device))[owner]


def resize_ids(ids: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest resize of ids (h, w) that takes the pixel under each new centre, exactly as PIL does.

    Which source pixel is met where a centre falls on an edge follows from PIL's running sum.
    """
    rows, columns = (
        torch.tensor(_source_indices(old, new), device=ids.device)
        for old, new in zip(ids.shape, size, strict=True)
    )
    return ids[rows.unsqueeze(1), columns]


def _source_indices(old: int, new: int) -> list[int]:
    step = old / new
    places = itertools.accumulate([step] * (new - 1), initial=0.5 * step)
    return [min(int(place), old - 1) for place in places]
