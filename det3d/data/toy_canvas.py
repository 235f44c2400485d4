"""Filling convex polygons with sub-pixel corners, typed once for all painters."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

SUBPIXEL_BITS = 4


def to_fixed(pixels: NDArray[np.float64]) -> NDArray[np.int32]:
    """Pixel coordinates (..., 2), whole numbers at pixel centres, as ``fill_convex`` takes them."""
    return np.round(pixels * 2**SUBPIXEL_BITS).astype(np.int32)


def fill_convex(image: NDArray[np.uint8], outline: NDArray[np.int32], colour: Sequence[float], *,
                smooth: bool = False) -> None:  # fmt: skip
    """Fill a convex polygon (k, 2) of fixed-point corners; smooth blends its border."""
    cv2.fillConvexPoly(image, outline, colour, cv2.LINE_AA if smooth else cv2.LINE_8, SUBPIXEL_BITS)
