"""Where cameras stand in a mosaic and what their directions are called."""

from __future__ import annotations

import math
from collections.abc import Sequence


def direction_name(azimuth: float) -> str:
    """Words for a viewing direction."""
    degrees = math.degrees(azimuth)
    side = "left" if degrees > 0 else "right"
    if abs(degrees) < 30:
        return "front"
    if abs(degrees) > 150:
        return "back"
    if 80 < abs(degrees) < 100:
        return side
    return f"{'front' if abs(degrees) <= 80 else 'back'} {side}"


def camera_rows(azimuths: Sequence[float]) -> list[list[int]]:
    """Rows of camera indices as one looks around: up to three in one row, else two rows.

    The upper row holds the half that looks forward, from left to right; the lower row the other
    half from back left over back to back right, so that each camera stands below its side.
    """
    order = sorted(range(len(azimuths)), key=lambda camera: abs(azimuths[camera]))
    half = len(order) if len(order) <= 3 else (len(order) + 1) // 2
    upper = sorted(order[:half], key=lambda camera: -azimuths[camera])
    lower = sorted(order[half:], key=lambda camera: azimuths[camera] % (2 * math.pi))
    return [row for row in (upper, lower) if row]
