"""Multi-scale deformable attention, the definition: differentiable torch, any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_and_sum(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Deformable DETR, eq. 3, in ``grid_sample``; shapes as in ``detr2d.ops.sampling``."""
    batch, heads = value.shape[0], value.shape[2]
    kind = torch.promote_types(value.dtype, torch.float32)
    grid = (2 * sampling_locations.to(kind) - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)
    maps = value.to(kind).permute(0, 2, 3, 1).flatten(0, 1)  # (B heads, D, N)
    levels = maps.split([height * width for height, width in spatial_shapes], dim=-1)
    sampled = torch.stack(
        [
            F.grid_sample(level.unflatten(-1, size), grid[:, i], align_corners=False)
            for i, (level, size) in enumerate(zip(levels, spatial_shapes, strict=True))
        ],
        dim=-2,
    ).unflatten(0, (batch, heads))  # (B, heads, D, Q, levels, P)
    sums = torch.einsum("bhcqlp,bqhlp->bqhc", sampled, attention_weights.to(kind))
    return sums.flatten(2).to(value.dtype)
