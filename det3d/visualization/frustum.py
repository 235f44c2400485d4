"""Clipping in front of the camera: exact at the near plane and at the borders of the image.

Everything here works on rays (..., 3) = intrinsics @ point in camera frame: (u depth, v depth,
depth). The five borders of what a camera sees are planes in these coordinates, so that a box that
is partly behind the camera is cut before the division by its depth.
"""

from __future__ import annotations

import numpy as np

NEAR = 0.1  # metres; what is nearer is not drawn


def view_planes(height: float, width: float, margin: float = 0.0) -> np.ndarray:
    """Planes (5, 4) of an image in pixels: a ray r is inside where planes @ (r, 1) >= 0.

    ``margin`` lets lines run on that many pixels beyond the borders.
    """
    return np.array(
        [
            [0, 0, 1, -NEAR],
            [1, 0, margin, 0],
            [-1, 0, width + margin, 0],
            [0, 1, margin, 0],
            [0, -1, height + margin, 0],
        ],
        dtype=np.float64,
    )


def signed_distances(rays: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """How far inside each plane (P, 4) the rays (..., 3) are, negative outside: (..., P)."""
    return rays @ planes[:, :3].T + planes[:, 3]


def in_sight(rays: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Tell which rays (..., 3) are inside all planes (P, 4): (...) bool."""
    return (signed_distances(rays, planes) >= 0).all(-1)


def to_pixels(rays: np.ndarray) -> np.ndarray:
    """Pixels (..., 2) of rays (..., 3) with positive depth."""
    return rays[..., :2] / rays[..., 2:]


def clip_segments(
    starts: np.ndarray, ends: np.ndarray, planes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cut segments between rays (N, 3) to the planes (P, 4).

    Returns pixels (M, 2, 2) of the ends of the M segments that are left, and which they are (M,).
    """
    first, second = signed_distances(starts, planes), signed_distances(ends, planes)
    crosses = (first < 0) != (second < 0)
    fraction = first / np.where(crosses, first - second, 1.0)
    enter = np.where(crosses & (first < 0), fraction, 0.0).max(-1)
    leave = np.where(crosses & (second < 0), fraction, 1.0).min(-1)
    outside = ((first < 0) & (second < 0)).any(-1)
    kept = np.flatnonzero(~outside & (enter < leave))
    along = np.stack([enter, leave], -1)[kept, :, None]
    cut = starts[kept, None] + along * (ends - starts)[kept, None]
    return to_pixels(cut), kept


def clip_polygon(rays: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Cut a convex polygon with corners (N, 3) to the planes (P, 4): pixels (M, 2), M may be 0.

    Sutherland and Hodgman 1974, plane by plane.
    """
    for plane in planes:
        distances = signed_distances(rays, plane[None])[:, 0]
        corners: list[np.ndarray] = []
        for i, distance in enumerate(distances):
            before = distances[i - 1]
            if (distance < 0) != (before < 0):
                corners.append(rays[i - 1] + before / (before - distance) * (rays[i] - rays[i - 1]))
            if distance >= 0:
                corners.append(rays[i])
        if len(corners) < 3:
            return np.zeros((0, 2))
        rays = np.stack(corners)
    return to_pixels(rays)
