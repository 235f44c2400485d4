"""A drawing surface with smooth lines, translucent areas and labels that do not cover each other.

Coordinates are in pixels of the finished picture with (0, 0) at its top-left corner, as everywhere
in the project; shapes are drawn enlarged and reduced at the end, text is set at final size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from det3d.visualization.palette import BLACK, TEXT, Color, ink_on

SUPERSAMPLE = 2
FRACTION_BITS = 4  # of a pixel, in OpenCV's fixed-point coordinates


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own scalable font, so that no system font is needed."""
    return ImageFont.load_default(size)


def text_size(text: str, size: int) -> tuple[float, float]:
    """Width of ``text`` and height of a line in pixels."""
    return font(size).getlength(text), round(size * 1.25)


def dash(start: np.ndarray, end: np.ndarray, on: float, off: float) -> np.ndarray:
    """Dashes (N, 2, 2) along a segment; the first and the last touch its ends."""
    length = float(np.linalg.norm(end - start))
    count = max(1, round((length + off) / (on + off)))
    if count == 1:
        return np.stack([start, end])[None]
    first = np.linspace(0, length - on, count)
    fractions = np.stack([first, first + on], -1) / length
    return start + fractions[..., None] * (end - start)


def even(size: int) -> int:
    """The next even number, which video codecs ask for."""
    return size + size % 2


class Canvas:
    """Draws on an RGB picture of ``height`` x ``width`` pixels; ``finish`` returns it."""

    def __init__(self, height: int, width: int, background: Color) -> None:
        self.height, self.width = height, width
        shape = (height * SUPERSAMPLE, width * SUPERSAMPLE, 3)
        self.pixels = np.full(shape, background, dtype=np.uint8)

    def paste(self, image: np.ndarray) -> None:
        """Fill the canvas with an RGB image (h, w, 3) of any size."""
        size = (self.width * SUPERSAMPLE, self.height * SUPERSAMPLE)
        shrinks = image.shape[1] > size[0]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        self.pixels = np.ascontiguousarray(cv2.resize(image, size, interpolation=method))

    def segments(
        self, segments: np.ndarray, color: Color, width: float, *, halo: float = 0.0
    ) -> None:
        """Draw segments (N, 2, 2), on a dark rim of ``halo`` pixels each side if asked."""
        ends = self._fixed(segments)
        passes = [(BLACK, width + 2 * halo)] if halo else []
        for paint, thickness in [*passes, (color, width)]:
            for start, end in ends:
                cv2.line(
                    self.pixels,
                    tuple(start.tolist()),
                    tuple(end.tolist()),
                    paint,
                    max(1, round(thickness * SUPERSAMPLE)),
                    cv2.LINE_AA,
                    FRACTION_BITS,
                )

    def dashes(
        self, segments: np.ndarray, color: Color, width: float, *, halo: float = 0.0
    ) -> None:
        """Draw segments (N, 2, 2) dashed."""
        pieces = [dash(start, end, on=6.0, off=4.0) for start, end in segments]
        if pieces:
            self.segments(np.concatenate(pieces), color, width, halo=halo)

    def polygon(self, corners: np.ndarray, color: Color, opacity: float) -> None:
        """Fill a polygon with corners (N, 2)."""
        if len(corners) < 3:
            return
        low = np.floor(corners.min(0) * SUPERSAMPLE).astype(int).clip(0) - 1
        high = np.ceil(corners.max(0) * SUPERSAMPLE).astype(int) + 2
        low = low.clip(0)
        area = self.pixels[low[1] : high[1], low[0] : high[0]]
        if area.size == 0:
            return
        painted = area.copy()
        shifted = self._fixed(corners) - (low << FRACTION_BITS)
        cv2.fillPoly(painted, [shifted.astype(np.int32)], color, cv2.LINE_AA, FRACTION_BITS)
        area[:] = cv2.addWeighted(painted, opacity, area, 1 - opacity, 0)

    def circle(self, center: np.ndarray, radius: float, color: Color, width: float) -> None:
        """Draw a circle around ``center`` (2,); width 0 fills it."""
        thickness = max(1, round(width * SUPERSAMPLE)) if width else cv2.FILLED
        x, y = self._fixed(center).tolist()
        fixed_radius = round(radius * SUPERSAMPLE * (1 << FRACTION_BITS))
        cv2.circle(self.pixels, (x, y), fixed_radius, color, thickness, cv2.LINE_AA, FRACTION_BITS)

    def dots(self, centers: np.ndarray, colors: np.ndarray, size: int) -> None:
        """Draw squares at centers (N, 2) with colors (N, 3), later ones on top.

        ``size`` is their side in pixels of the enlarged drawing.
        """
        corner = np.floor(centers * SUPERSAMPLE - (size - 1) / 2).astype(int)
        height, width = self.pixels.shape[:2]
        for dy, dx in np.ndindex(size, size):
            x, y = corner[:, 0] + dx, corner[:, 1] + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            self.pixels[y[inside], x[inside]] = colors[inside]

    def finish(self) -> np.ndarray:
        """The picture (height, width, 3), uint8 RGB."""
        return cv2.resize(self.pixels, (self.width, self.height), interpolation=cv2.INTER_AREA)

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        """Fixed-point coordinates for OpenCV, whose pixel centres are whole numbers."""
        enlarged = (points * SUPERSAMPLE - 0.5) * (1 << FRACTION_BITS)
        return np.rint(enlarged).astype(np.int64)


Rectangle = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Label:
    """Words for an object that covers ``area``."""

    text: str
    area: Rectangle
    color: Color
    filled: bool
    """Written on a plate of its colour, or else in its colour on a dark one."""


def place_labels(
    labels: Sequence[Label], height: int, width: int, size: int
) -> list[tuple[Label, Rectangle]]:
    """Find room for labels, first ones first: each near its object and none over another.

    A place that covers no object is preferred, up to some lines above or below the own one. A
    label for which there is no room is left out.
    """
    placed: list[tuple[Label, Rectangle]] = []
    taken = np.zeros((0, 4))
    areas = np.array([label.area for label in labels]).reshape(-1, 4)
    for label in labels:
        spots = free_spots(candidates(label, height, width, size), taken)
        if len(spots):
            covered = overlap_areas(spots, areas)
            far = np.arange(len(spots)) * 0.02  # candidates come nearest first
            best = spots[np.argmin(covered / (covered.max() + 1) + far)]
            placed.append((label, tuple(best.tolist())))
            taken = np.concatenate([taken, best[None]])
    return placed


def candidates(label: Label, height: int, width: int, size: int) -> np.ndarray:
    """Places (N, 4) for a label inside the picture, nearest to its object first."""
    text_width, text_height = text_size(label.text, size)
    text_width += 6
    left, top, right, bottom = label.area
    rows = [top - 1 - text_height, bottom + 1]
    rows += [top - 1 - line * (text_height + 1) for line in range(2, 6)]
    rows += [bottom + 1 + text_height]
    columns = ((left + right - text_width) / 2, left, right - text_width)
    corners = np.array([(x, y) for y in rows for x in columns])
    corners[:, 0] = corners[:, 0].clip(0, width - text_width)
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


def write_labels(picture: np.ndarray, labels: Sequence[Label], size: int) -> np.ndarray:
    """Write labels on a picture (h, w, 3) where ``place_labels`` finds room.

    A thin line leads to the object if the label stands away from it.
    """
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    spots = place_labels(labels, picture.shape[0], picture.shape[1], size)
    for label, spot in spots:
        if spot[3] < label.area[1] - 2:
            x = (max(spot[0], label.area[0]) + min(spot[2], label.area[2])) / 2
            draw.line((x, spot[3], x, label.area[1]), fill=(*label.color, 200), width=1)
    for label, spot in spots:
        plate = (*label.color, 215) if label.filled else (0, 0, 0, 150)
        ink = ink_on(label.color) if label.filled else label.color
        draw.rounded_rectangle(spot, radius=3, fill=plate)
        middle = (spot[0] + 3, (spot[1] + spot[3]) / 2)
        draw.text(middle, label.text, fill=ink, font=font(size), anchor="lm")
    return np.asarray(image)


def write_title(picture: np.ndarray, text: str, size: int) -> np.ndarray:
    """Write ``text`` on a dark plate into the top-left corner of a picture (h, w, 3)."""
    width, height = text_size(text, size)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    draw.rounded_rectangle((5, 5, 5 + width + 10, 5 + height + 4), radius=4, fill=(0, 0, 0, 150))
    draw.text((10, 7 + height / 2), text, fill=TEXT, font=font(size), anchor="lm")
    return np.asarray(image)
