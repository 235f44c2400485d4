"""A drawing surface with smooth lines and translucent areas.

Coordinates are in pixels of the finished picture with (0, 0) at its top-left corner, as everywhere
in the project; shapes are drawn enlarged and reduced at the end, text is set at final size.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw

from det3d.visualization.palette import BLACK, TEXT
from detr2d.labels import Color, Rectangle, font, text_size

SUPERSAMPLE = 2
FRACTION_BITS = 4  # of a pixel, in OpenCV's fixed-point coordinates


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


def write_title(picture: np.ndarray, text: str, size: int) -> np.ndarray:
    """Write ``text`` on a dark plate into the top-left corner of a picture (h, w, 3)."""
    area = title_area(text, size)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    draw.rounded_rectangle(area, radius=4, fill=(0, 0, 0, 150))
    middle = (area[0] + 5, (area[1] + area[3]) / 2)
    draw.text(middle, text, fill=TEXT, font=font(size), anchor="lm")
    return np.asarray(image)


def title_area(text: str, size: int) -> Rectangle:
    """What the plate of ``write_title`` covers."""
    width, height = text_size(text, size)
    return 5, 5, 5 + width + 10, 5 + height + 4
