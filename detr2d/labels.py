"""Names of objects in pictures that do not cover each other.

Coordinates are in pixels with (0, 0) at the picture's top-left corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own scalable font, so that no system font is needed."""
    return ImageFont.load_default(size)


def text_size(text: str, size: int) -> tuple[float, float]:
    """Width of ``text`` and height of a line in pixels."""
    return font(size).getlength(text), round(size * 1.25)


def ink_on(color: Color) -> Color:
    """Black or white: the one that reads better on ``color`` (relative luminance)."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in color)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.2 else (255, 255, 255)


@dataclass(frozen=True)
class Label:
    """Words for an object that covers ``area``."""

    text: str
    area: Rectangle
    color: Color
    filled: bool = True
    """Written on a plate of its colour, or else in its colour on a dark one."""
    align: float = 0.5
    """Where it stands along the area if it can: 0 at its left end, 0.5 in the middle."""


def place_labels(
    labels: Sequence[Label], height: int, width: int, size: int, taken: Sequence[Rectangle] = ()
) -> list[tuple[Label, Rectangle]]:
    """Find room for labels, first ones first: each near its object and none over another.

    A place that covers no object is preferred, up to some lines above or below the own one. A
    label for which there is no room is left out. Nothing is written over ``taken``.
    """
    placed: list[tuple[Label, Rectangle]] = []
    covered_by = np.array(taken).reshape(-1, 4)
    areas = np.array([label.area for label in labels]).reshape(-1, 4)
    for label in labels:
        spots = free_spots(candidates(label, height, width, size), covered_by)
        if len(spots):
            covered = overlap_areas(spots, areas)
            far = np.arange(len(spots)) * 0.02  # candidates come nearest first
            best = spots[np.argmin(covered / (covered.max() + 1) + far)]
            placed.append((label, tuple(best.tolist())))
            covered_by = np.concatenate([covered_by, best[None]])
    return placed


def candidates(label: Label, height: int, width: int, size: int) -> np.ndarray:
    """Places (N, 4) for a label inside the picture, nearest to its object first."""
    text_width, text_height = text_size(label.text, size)
    text_width += 6
    left, top, right, bottom = label.area
    rows = [top - 1 - text_height, bottom + 1]
    rows += [top - 1 - line * (text_height + 1) for line in range(2, 6)]
    rows += [bottom + 1 + text_height]
    shares = (label.align, *(share for share in (0.5, 0, 1) if share != label.align))
    columns = [left + share * (right - left - text_width) for share in shares]
    corners = np.array([(x, y) for y in rows for x in columns])
    corners[:, 0] = corners[:, 0].clip(0, max(width - text_width, 0))
    inside = (corners[:, 1] >= 0) & (corners[:, 1] <= height - text_height)
    if not inside.any():  # an object that fills the picture
        inside[0], corners[0, 1] = True, min(max(top, 0), height - text_height)
    kept = corners[inside]
    return np.concatenate([kept, kept + np.array([text_width, text_height])], axis=1)


def overlap_areas(spots: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Square pixels (N,) that each rectangle (N, 4) shares with the rectangles (M, 4)."""
    low = np.maximum(spots[:, None, :2], others[None, :, :2])
    high = np.minimum(spots[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(0).prod(-1).sum(-1)


def free_spots(spots: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Those of the rectangles (N, 4) that meet none of ``taken`` (M, 4)."""
    return spots[overlap_areas(spots, taken) == 0]


def write_labels(
    picture: np.ndarray, labels: Sequence[Label], size: int, taken: Sequence[Rectangle] = ()
) -> np.ndarray:
    """Write labels on a picture (h, w, 3) where ``place_labels`` finds room.

    A thin line leads to the object if the label stands away from it.
    """
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    spots = place_labels(labels, picture.shape[0], picture.shape[1], size, taken)
    for label, spot in spots:
        x = (max(spot[0], label.area[0]) + min(spot[2], label.area[2])) / 2
        if spot[3] < label.area[1] - 2:
            draw.line((x, spot[3], x, label.area[1]), fill=(*label.color, 200), width=1)
        elif spot[1] > label.area[3] + 2:
            draw.line((x, label.area[3], x, spot[1]), fill=(*label.color, 200), width=1)
    for label, spot in spots:
        plate = (*label.color, 255) if label.filled else (0, 0, 0, 150)
        ink = ink_on(label.color) if label.filled else label.color
        draw.rounded_rectangle(spot, radius=3, fill=plate)
        middle = (spot[0] + 3, (spot[1] + spot[3]) / 2)
        draw.text(middle, label.text, fill=ink, font=font(size), anchor="lm")
    return np.asarray(image)
