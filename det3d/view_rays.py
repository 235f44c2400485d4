"""Where the pixels of each camera look: viewing rays in the ref frame, and features made of them.

A convolution sees a pixel's neighbours, not where in the world the pixel points. How steeply its
ray descends is what tells how far away the ground at that pixel is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from det3d.cameras import CameraRig
from detr2d.constants import constant

STEEPEST = 2.0  # slopes beyond are clamped; cameras that look straight down are out of scope
FREQUENCIES = (2, 4, 8, 16)  # half turns of the waves per unit of slope


def cell_centres(canvas: tuple[int, int], like: Tensor) -> Tensor:
    """Pixels (H * W, 2) of the centres of the cells of a map (..., H, W), row by row."""
    height, width = like.shape[-2:]
    rows = (torch.arange(height, device=like.device) + 0.5) * (canvas[0] / height)
    columns = (torch.arange(width, device=like.device) + 0.5) * (canvas[1] / width)
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([u, v], dim=-1).flatten(0, 1).to(rows.dtype)


def view_rays(rig: CameraRig, pixels: Tensor) -> Tensor:
    """Rays (B, V, N, 3) in ref through pixels (N, 2): metres moved per metre of depth."""
    pixels = pixels.expand(*rig.present.shape, -1, -1)
    depth = torch.ones_like(pixels[..., 0])
    return rig.unproject(pixels, depth) - rig.unproject(pixels, torch.zeros_like(depth))


def headings(rays: Tensor) -> Tensor:
    """Unit vectors (..., 2) over the ground along rays (..., 3); (1, 0) for vertical ones."""
    level = rays[..., :2]
    length = level.norm(dim=-1, keepdim=True)
    east = torch.zeros_like(level)
    east[..., 0] = 1
    return torch.where(length > 1e-6, level / length.clamp(min=1e-6), east)


def turn(vectors: Tensor, heading: Tensor) -> Tensor:
    """Turn vectors (..., 2) counter-clockwise by the angle of unit vectors (..., 2).

    What is (along, left) of a heading becomes (x, y). ``unturn`` is the inverse.
    """
    along, left = vectors.unbind(-1)
    cos, sin = heading.unbind(-1)
    return torch.stack([cos * along - sin * left, sin * along + cos * left], dim=-1)


def unturn(vectors: Tensor, heading: Tensor) -> Tensor:
    """Turn vectors (..., 2) clockwise by the angle of unit vectors (..., 2)."""
    return turn(vectors, heading * constant((1, -1), heading))


class RayEmbedding(nn.Module):
    """Features of the viewing rays, to be added to image features.

    They depend on the slope of a ray and on its length per metre of depth, not on the compass: the
    same picture means the same wherever its camera looks. PETR (Liu et al., ECCV 2022) embeds
    points on the rays instead, which tell directions apart.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            nn.Linear(3 + 2 * len(FREQUENCIES), channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
        )

    def forward(self, features: Tensor, rig: CameraRig, canvas: tuple[int, int]) -> Tensor:
        """Features (B * V, C, H, W) that cover the canvas, with their rays' embeddings added."""
        rays = view_rays(rig, cell_centres(canvas, features))
        embedded = self.embed(_ray_waves(rays)).flatten(0, 1)  # (B V, H W, C)
        height, width = features.shape[-2:]
        return features + embedded.transpose(1, 2).unflatten(2, (height, width))


def _ray_waves(rays: Tensor) -> Tensor:
    """Rays (..., 3) as slope, log of the descent, length, and waves of the slope: (..., 11)."""
    slope = rays[..., 2] / rays[..., :2].norm(dim=-1).clamp(min=1e-3)
    slope = slope.clamp(-STEEPEST, STEEPEST)
    descent = (-slope).clamp(min=0.01).log() / math.log(100) + 1
    plain = torch.stack([4 * slope, descent, rays.norm(dim=-1) - 1], dim=-1)
    angles = slope.unsqueeze(-1) * math.pi * constant(FREQUENCIES, slope)
    return torch.cat([plain, angles.sin(), angles.cos()], dim=-1)
