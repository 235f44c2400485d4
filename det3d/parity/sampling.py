"""What DETR3D's cross-attention could see: single features of every camera and level."""

from __future__ import annotations

import torch
from torch import Tensor

from det3d.camera_gather import CameraFeatures, gather_all


def sample_levels(features: CameraFeatures, pixels: Tensor) -> Tensor:
    """Features (B, C, Q, V, levels) at pixels (B, V, Q, 2) of each camera, seen or not."""
    scenes, cameras, queries = pixels.shape[:3]
    levels = len(features.level_sizes)
    one = torch.eye(cameras * levels, dtype=pixels.dtype).view(cameras, levels, cameras, levels)
    seen = torch.ones(scenes, cameras, queries, 1, 1, dtype=torch.bool)
    sums = [
        gather_all(
            features,
            pixels[:, :, :, None, None],
            one[camera, level]
            .view(1, cameras, 1, 1, levels, 1)
            .expand(scenes, -1, queries, -1, -1, -1),
            seen,
        )
        for camera in range(cameras)
        for level in range(levels)
    ]
    return torch.stack(sums, dim=-1).transpose(1, 2).unflatten(-1, (cameras, levels))
