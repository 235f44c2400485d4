"""Metric 3D boxes: their one format, their corners and the code that the network predicts.

A 3D box is (x, y, z, length, width, height, yaw, vx, vy): gravity centre and size in metres, yaw
in radians counter-clockwise from the ref frame's +x axis to the box's front, velocity in m/s; an
unknown velocity is NaN. ``length`` runs along the heading.
"""

from __future__ import annotations

import torch
from torch import Tensor

from det3d.geometry import rotation_about_z, transform_points, transform_yaw, wrap_angle
from detr2d.constants import constant

BOX_SIZE = 9
# Corner signs along (length, width, height); the first four are the front face.
CORNER_SIGNS = (
    (1, 1, 1), (1, -1, 1), (1, -1, -1), (1, 1, -1),
    (-1, 1, 1), (-1, -1, 1), (-1, -1, -1), (-1, 1, -1),
)  # fmt: skip
CORNER_EDGES = (
    (0, 1), (1, 2), (2, 3), (3, 0),  # front face
    (4, 5), (5, 6), (6, 7), (7, 4),  # rear face
    (0, 4), (1, 5), (2, 6), (3, 7),
)  # fmt: skip


def box_corners(boxes: Tensor) -> Tensor:
    """Corners (..., 8, 3) in the ref frame of boxes (..., 9), ordered as ``CORNER_SIGNS``.

    This is the devkit's ``Box.corners`` order: front-left-top, then clockwise seen from behind.
    """
    signs = constant(CORNER_SIGNS, boxes)
    offsets = 0.5 * signs * boxes[..., None, 3:6]
    turned = offsets @ rotation_about_z(boxes[..., 6]).transpose(-1, -2)
    return boxes[..., None, :3] + turned


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Tell which points (N, 3) lie in which boxes (T, 9), borders included: (T, N) bool."""
    offsets = points.unsqueeze(0) - boxes[:, None, :3]
    local = offsets @ rotation_about_z(boxes[:, 6])  # transposed rotation from the right
    return (local.abs() <= 0.5 * boxes[:, None, 3:6]).all(-1)


def transform_boxes(target_from_source: Tensor, boxes: Tensor) -> Tensor:
    """Move boxes (..., T, 9) by a rigid transform (..., 4, 4): centre, heading and velocity."""
    velocity = torch.cat([boxes[..., 7:9], torch.zeros_like(boxes[..., :1])], dim=-1)
    turned = velocity @ target_from_source[..., :3, :3].transpose(-1, -2)
    return torch.cat(
        [
            transform_points(target_from_source, boxes[..., :3]),
            boxes[..., 3:6],
            transform_yaw(target_from_source, boxes[..., 6]).unsqueeze(-1),
            turned[..., :2],
        ],
        dim=-1,
    )


class MetricBox3D:
    """Code of 10: (x, y, z, log length, log width, log height, sin yaw, cos yaw, vx, vy).

    DETR3D, section 3.3, with another order of entries: the centre comes first so that a reference
    point refines the leading entries in 2D and 3D alike (the released code writes
    x, y, log w, log l, z, log h, ...). Centre in metres; cost and loss are L1 over mixed metres and
    logarithms, as released: the cost over the first 8 entries (velocity left out), the loss over
    all, weighted by ``weights`` (10,). Velocity entries whose target is NaN add nothing to it.
    """

    code_size = 10
    terms: tuple[str, ...] = ("l1",)

    def __init__(self, weights: tuple[float, ...] = (1, 1, 1, 1, 1, 1, 1, 1, 0.2, 0.2)) -> None:
        if len(weights) != self.code_size:
            raise ValueError(f"a 3D code has {self.code_size} weights, got {len(weights)}")
        self.weights = tuple(weights)

    def encode(self, boxes: Tensor) -> Tensor:
        """Codes (..., 10) of boxes (..., 9). Sizes must be positive."""
        yaw = boxes[..., 6:7]
        size = boxes[..., 3:6].log()
        return torch.cat([boxes[..., :3], size, yaw.sin(), yaw.cos(), boxes[..., 7:9]], dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Boxes (..., 9) of codes (..., 10); yaw in [-pi, pi)."""
        yaw = wrap_angle(torch.atan2(codes[..., 6:7], codes[..., 7:8]))
        return torch.cat([codes[..., :3], codes[..., 3:6].exp(), yaw, codes[..., 8:10]], dim=-1)

    def costs(self, codes: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``l1``: sum of absolute differences of the first 8 entries, (..., Q, T)."""
        return {"l1": torch.cdist(codes[..., :8].float(), targets[..., :8].float(), p=1)}

    def losses(self, codes: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``l1``: weighted sum of absolute differences of all entries, (M,)."""
        known = torch.isfinite(targets)
        difference = (codes.float() - targets.where(known, codes).float()).abs()
        # Not a matrix product: autocast would round it to bfloat16.
        return {"l1": (difference * constant(self.weights, difference)).sum(-1)}
