"""Box and camera geometry in numpy, for viewers that must not load torch.

The same conventions as ``det3d.geometry``, ``det3d.boxes`` and ``det3d.cameras``, which define them
and which the tests compare with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CORNER_SIGNS = np.array(
    [(1, 1, 1), (1, -1, 1), (1, -1, -1), (1, 1, -1),
     (-1, 1, 1), (-1, -1, 1), (-1, -1, -1), (-1, 1, -1)]
)  # fmt: skip


def transform_points(target_from_source: Array, points: Array) -> Array:
    """Move points (..., 3) by a transform (4, 4)."""
    return points @ target_from_source[:3, :3].T + target_from_source[:3, 3]


def invert_transform(target_from_source: Array) -> Array:
    """Invert a rigid transform (4, 4)."""
    inverse = np.eye(4)
    inverse[:3, :3] = target_from_source[:3, :3].T
    inverse[:3, 3] = -inverse[:3, :3] @ target_from_source[:3, 3]
    return inverse


def transform_boxes(target_from_source: Array, boxes: Array) -> Array:
    """Move boxes (N, 9) by a rigid transform (4, 4): centre, heading and velocity."""
    rotation = target_from_source[:3, :3]
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], -1) @ rotation[:2, :2].T
    velocity = boxes[:, 7:9] @ rotation[:2, :2].T
    yaw = np.arctan2(heading[:, 1], heading[:, 0])
    centre = transform_points(target_from_source, boxes[:, :3])
    return np.concatenate([centre, boxes[:, 3:6], yaw[:, None], velocity], axis=1)


def box_corners(boxes: Array) -> Array:
    """Corners (N, 8, 3) of boxes (N, 9) in the order of ``det3d.boxes.CORNER_SIGNS``."""
    offsets = 0.5 * CORNER_SIGNS * boxes[:, None, 3:6]
    cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x, y, z = offsets[..., 0], offsets[..., 1], offsets[..., 2]
    return boxes[:, None, :3] + np.stack([cos * x - sin * y, sin * x + cos * y, z], -1)


def box_rotations(target_from_source: Array, yaws: Array) -> Array:
    """Rotations (N, 3, 3) in the target frame of boxes with ``yaws`` (N,) in the source.

    The tilt of the source frame is kept: these are full rotations, not only headings.
    """
    about_z = np.zeros((len(yaws), 3, 3))
    about_z[:, 0, 0] = about_z[:, 1, 1] = np.cos(yaws)
    about_z[:, 1, 0], about_z[:, 0, 1], about_z[:, 2, 2] = np.sin(yaws), -np.sin(yaws), 1.0
    return target_from_source[:3, :3] @ about_z


def quaternions(rotations: Array) -> Array:
    """Quaternions (N, 4), w x y z with w >= 0, of rotation matrices (N, 3, 3).

    The largest of the four is computed first, from the diagonal, so that nothing is divided by a
    small number (Shepperd 1978).
    """
    r = np.moveaxis(rotations, 0, -1)  # (3, 3, N)
    trace = r[0, 0] + r[1, 1] + r[2, 2]
    table = np.zeros((4, 4, len(rotations)))  # 4 q_i q_j
    table[0, 0] = 1 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        table[i + 1, i + 1] = 1 + 2 * r[i, i] - trace
        table[0, i + 1] = table[i + 1, 0] = r[k, j] - r[j, k]
        table[j + 1, k + 1] = table[k + 1, j + 1] = r[j, k] + r[k, j]
    largest = np.einsum("iin->in", table).argmax(0)
    rows = table[largest, :, np.arange(len(rotations))]  # (N, 4)
    signs = np.where(rows[:, :1] < 0, -1.0, 1.0)
    return signs * rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def quaternion_yaws(turns: Array) -> Array:
    """Headings (N,) in radians of quaternions (N, 4), w x y z: of the turned x axis, from above."""
    w, x, y, z = np.moveaxis(turns, -1, 0)
    return np.arctan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)


def camera_azimuth(camera_from_ref: Array, forward: float) -> float:
    """Where a camera (4, 4) looks: radians from the direction ``forward``, left positive."""
    azimuth = np.arctan2(camera_from_ref[2, 1], camera_from_ref[2, 0]) - forward
    return float((azimuth + np.pi) % (2 * np.pi) - np.pi)
