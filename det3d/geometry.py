"""Rigid transforms, yaw and quaternions, and the metric region that the detector covers.

A transform is a matrix (..., 4, 4) named ``target_from_source``; products read by cancelling
neighbours: ``image_from_ref = image_from_camera @ camera_from_ref``. All frames are right-handed,
in metres. The functions keep dtype and device of their inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detr2d.constants import constant


def make_transform(rotation: Tensor, translation: Tensor) -> Tensor:
    """Build (..., 4, 4) from a rotation (..., 3, 3) and a translation (..., 3)."""
    top = torch.cat([rotation, translation.unsqueeze(-1)], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def invert_transform(target_from_source: Tensor) -> Tensor:
    """Invert a rigid transform (..., 4, 4) by transposing its rotation."""
    rotation = target_from_source[..., :3, :3].transpose(-1, -2)
    translation = target_from_source[..., :3, 3:]
    return make_transform(rotation, -(rotation @ translation).squeeze(-1))


def invert_matrix(matrix: Tensor) -> Tensor:
    """Inverses of matrices (..., n, n), without asking the device whether there are any.

    ``Tensor.inverse`` makes the host wait for that. A singular matrix gives no finite inverse.
    """
    return torch.linalg.inv_ex(matrix).inverse


def transform_points(target_from_source: Tensor, points_source: Tensor) -> Tensor:
    """Move points (..., N, 3) by a transform (..., 4, 4); leading axes broadcast."""
    rotation = target_from_source[..., :3, :3]
    translation = target_from_source[..., None, :3, 3]
    return points_source @ rotation.transpose(-1, -2) + translation


def is_rigid(transform: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Tell whether each matrix (..., 4, 4) is a proper rotation with a translation: (...) bool."""
    rotation = transform[..., :3, :3]
    identity = torch.eye(3, dtype=transform.dtype, device=transform.device)
    orthogonal = (rotation @ rotation.transpose(-1, -2) - identity).abs().amax((-1, -2))
    bottom = (transform[..., 3, :] - transform.new_tensor([0.0, 0, 0, 1])).abs().amax(-1)
    proper = torch.linalg.det(rotation) > 0
    return (orthogonal < tolerance) & (bottom < tolerance) & proper


def rotation_about_z(yaw: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) for angles (...) in radians, counter-clockwise from above."""
    cos, sin = yaw.cos(), yaw.sin()
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    rows = [cos, -sin, zero, sin, cos, zero, zero, zero, one]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def wrap_angle(angle: Tensor) -> Tensor:
    """Bring angles in radians to [-pi, pi)."""
    return torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi


def quaternion_to_rotation(quaternion: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) in the order w, x, y, z.

    Quaternions are normalised first. Raises ValueError for one of length zero.
    """
    norm = quaternion.norm(dim=-1, keepdim=True)
    if bool((norm == 0).any()):
        raise ValueError("a quaternion of length zero is no rotation")
    w, x, y, z = (quaternion / norm).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def transform_yaw(target_from_source: Tensor, yaw: Tensor) -> Tensor:
    """Heading (..., N) after a transform (..., 4, 4): that of the turned x axis, seen from above.

    Exact for transforms that turn about z; for tilted ones it is the projected heading, as the
    nuScenes devkit's ``quaternion_yaw`` gives it.
    """
    direction = torch.stack([yaw.cos(), yaw.sin()], dim=-1)
    turned = direction @ target_from_source[..., :2, :2].transpose(-1, -2)
    return torch.atan2(turned[..., 1], turned[..., 0])


@dataclass(frozen=True)
class Region:
    """Axis-aligned box in the ref frame that reference points live in: metres <-> unit cube.

    ``lower`` and ``upper`` are (x, y, z) in metres; the published systems use
    (-51.2, -51.2, -5.0) to (51.2, 51.2, 3.0).
    """

    lower: tuple[float, float, float] = (-51.2, -51.2, -5.0)
    upper: tuple[float, float, float] = (51.2, 51.2, 3.0)

    def __post_init__(self) -> None:
        if any(low >= high for low, high in zip(self.lower, self.upper, strict=True)):
            raise ValueError(f"a region needs lower < upper, got {self.lower} and {self.upper}")

    def to_metres(self, unit: Tensor) -> Tensor:
        """Points (..., 3) of the unit cube in metres."""
        lower, upper = constant(self.lower, unit), constant(self.upper, unit)
        return unit * (upper - lower) + lower

    def to_unit(self, metres: Tensor) -> Tensor:
        """Points (..., 3) in metres in the unit cube; outside the region beyond [0, 1]."""
        lower, upper = constant(self.lower, metres), constant(self.upper, metres)
        return (metres - lower) / (upper - lower)

    def contains(self, metres: Tensor) -> Tensor:
        """Tell for each point (..., 3) whether it lies in the region, borders included."""
        lower, upper = constant(self.lower, metres), constant(self.upper, metres)
        return ((metres >= lower) & (metres <= upper)).all(-1)
