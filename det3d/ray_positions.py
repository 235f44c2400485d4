"""Where the cells of camera feature maps look: PETR's 3D position embedding.

Liu et al., PETR, ECCV 2022, section 3.2: points along each cell's line of sight, in the frame of
the predictions and normalised by a region, tell a token where it looks. A point is origin + depth *
direction, so one small matrix product per cell gives all its points. Beside it, sine embeddings
count cells (and, in the released weights, cameras).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det3d.cameras import CameraRig
from det3d.geometry import Region
from det3d.last_answer import LastAnswer
from detr2d.decoder import inverse_sigmoid
from detr2d.images import valid_pixels
from detr2d.linear import Linear
from detr2d.positions import EPS, sine_embedding
from detr2d.structures import at_least_float32

TEMPERATURE = 1e4


@dataclass(frozen=True, kw_only=True)
class Depths:
    """Depths in metres at which points are placed along every line of sight.

    Linearly increasing steps (LID; Reading et al., CaDDN, CVPR 2021, eq. 5) or equal ones; as in
    the released code the far end itself is never reached.
    """

    steps: Literal["increasing", "equal"] = "increasing"
    """Whether steps grow with depth."""
    count: int = 64
    """Number of points D."""
    near: float = 1.0
    """The first depth, metres."""
    far: float = 61.2
    """What the depths approach, metres."""

    def values(self) -> Tensor:
        """Depths (D,), float64."""
        index = torch.arange(self.count, dtype=torch.float64)
        if self.steps == "equal":
            return self.near + (self.far - self.near) / self.count * index
        return self.near + (self.far - self.near) * index * (index + 1) / (
            self.count * (self.count + 1)
        )


def cell_corners(canvas: tuple[int, int], size: tuple[int, int], like: Tensor) -> Tensor:
    """Pixels (H * W, 2) of the top-left corners of a map's cells, row by row.

    PETR's released code looks through corners, not centres.
    """
    rows = torch.arange(size[0], device=like.device, dtype=like.dtype) * (canvas[0] / size[0])
    columns = torch.arange(size[1], device=like.device, dtype=like.dtype) * (canvas[1] / size[1])
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([u, v], dim=-1).flatten(0, 1)


def frustum_points(
    rig: CameraRig, canvas: tuple[int, int], size: tuple[int, int], depths: Tensor
) -> Tensor:
    """Points (B, V, H, W, D, 3) in ref along the lines of sight of the cells of maps (H, W)."""
    pixels = cell_corners(canvas, size, rig.intrinsics).expand(*rig.present.shape, -1, 2)
    origins, directions = rig.rays(pixels)
    points = origins[:, :, None, None] + directions.unsqueeze(-2) * depths.to(directions)[:, None]
    return points.unflatten(2, size)


class RayPositions(nn.Module):
    """Embeds the points on each cell's line of sight (PETR, eq. 3 to 5)."""

    depths: Tensor

    def __init__(self, region: Region, depths: Depths, channels: int) -> None:
        super().__init__()
        self.region = region
        self.register_buffer("depths", depths.values(), persistent=False)
        self.embed = two_layers(3 * depths.count, 4 * channels, channels)

    def forward(self, rig: CameraRig, canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Embedding (B, V, H, W, C) of the cells of maps (H, W) that cover the canvas."""
        return self.embed(like_weights(self.embed, self.logits(rig, canvas, size)))

    def logits(self, rig: CameraRig, canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Inverse sigmoids (B, V, H, W, D * 3) of the points' places in the region, clamped."""
        points = frustum_points(rig, canvas, size, self.depths)
        return inverse_sigmoid(self.region.to_unit(points)).flatten(-2)

    def folded(self) -> SteadyRays:
        """The form for inference."""
        return SteadyRays(self)


class SteadyRays(nn.Module):
    """``RayPositions`` for inference: embeds a rig once while it stays as it is."""

    def __init__(self, rays: RayPositions) -> None:
        super().__init__()
        self.rays = rays
        self.last = LastAnswer(rays)

    def forward(self, rig: CameraRig, canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Embedding (B, V, H, W, C) of the cells of maps (H, W) that cover the canvas."""
        inputs = (rig.intrinsics, rig.camera_from_ref)
        return self.last(lambda: self.rays(rig, canvas, size), inputs, (canvas, size))


class RigSine(nn.Module):
    """Sine embedding of (camera, row, column) numbers among the valid ones, adapted by two layers.

    The order of the cameras is data that the weights know: for the rig that they were trained on.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels // 2
        self.adapt = two_layers(3 * self.channels, 4 * channels, channels)

    def forward(self, padding: Tensor) -> Tensor:
        """Embedding (B, V, H, W, C) of cells with padding (B, V, H, W), True outside."""
        return self.adapt(like_weights(self.adapt, self.sines(padding)))

    def sines(self, padding: Tensor) -> Tensor:
        """The sines (B, V, H, W, 3 * C / 2): camera, row, column; all sines before all cosines."""
        valid = (~padding).float()
        waves = numbered_sines([valid.cumsum(axis) for axis in (1, 2, 3)], self.channels)
        return waves.unflatten(-1, (3, -1, 2)).transpose(-1, -2).flatten(-3)

    def folded(self) -> SteadyCells:
        """The form for inference."""
        return SteadyCells(self)


class ViewSine(nn.Module):
    """Sine embedding of (row, column) numbers in each camera: fits any rig."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels // 2
        self.adapt = two_layers(2 * self.channels, channels, channels)

    def forward(self, padding: Tensor) -> Tensor:
        """Embedding (B, V, H, W, C) of cells with padding (B, V, H, W), True outside."""
        return self.adapt(like_weights(self.adapt, self.sines(padding)))

    def sines(self, padding: Tensor) -> Tensor:
        """The sines (B, V, H, W, C): row, column; sines and cosines in turn."""
        valid = (~padding).float()
        return numbered_sines([valid.cumsum(2), valid.cumsum(3)], self.channels)

    def folded(self) -> SteadyCells:
        """The form for inference."""
        return SteadyCells(self)


class SteadyCells(nn.Module):
    """``RigSine`` or ``ViewSine`` for inference: embeds cells once while their padding stays."""

    def __init__(self, cells: RigSine | ViewSine) -> None:
        super().__init__()
        self.cells = cells
        self.last = LastAnswer(cells)

    def forward(self, padding: Tensor) -> Tensor:
        """Embedding (B, V, H, W, C) of cells with padding (B, V, H, W), True outside."""
        return self.last(lambda: self.cells(padding), (padding,))


def numbered_sines(numbers: list[Tensor], channels: int) -> Tensor:
    """Sines (B, V, H, W, n * channels) of cell numbers, each divided by the last along its axis.

    The i-th of n tensors (B, V, H, W) counts along axis 4 - n + i.
    """
    places = []
    for axis, number in enumerate(numbers, start=4 - len(numbers)):
        last = number.narrow(axis, number.shape[axis] - 1, 1)
        places.append(number / (last + EPS))
    points = torch.stack(places, dim=-1)
    return sine_embedding(points, channels, temperature=TEMPERATURE, scale=2 * math.pi)


class FeatureGate(nn.Module):
    """Scales a ray embedding by what the cell shows (PETRv2, section 3.3, feature-guided)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = two_layers(channels, channels, channels)

    def forward(self, embedding: Tensor, tokens: Tensor) -> Tensor:
        """Embedding (..., C) guided by tokens (..., C)."""
        return embedding * self.gate(tokens).sigmoid()


def like_weights(module: nn.Module, tensor: Tensor) -> Tensor:
    """The tensor in the type of the module's weights."""
    return tensor.to(next(module.parameters()).dtype)


def two_layers(in_channels: int, hidden: int, channels: int) -> nn.Sequential:
    """Linear, ReLU, Linear: a 1 x 1 convolution block for channels-last maps."""
    return nn.Sequential(
        Linear(in_channels, hidden), nn.ReLU(inplace=True), Linear(hidden, channels)
    )


def token_padding(rig: CameraRig, canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Cells (B, V, H, W) that show nothing: in the padding of an image or of an absent camera.

    Nearest sampling of the full-resolution mask, as in the released code.
    """
    outside = ~valid_pixels(rig.image_sizes, *canvas) | ~rig.present[..., None, None]
    return F.interpolate(outside.float(), size, mode="nearest") > 0.5


def lonely_tokens_seen(padding: Tensor) -> Tensor:
    """Padding (B, N) with nothing masked where all is, so that attention stays finite."""
    return padding & ~padding.all(1, keepdim=True)


def view_tokens(features: Tensor, project: nn.Module, lead: torch.Size) -> Tensor:
    """Tokens (B, V, H, W, C), at least float32, of maps (B * V, C_in, H, W)."""
    return at_least_float32(project(features.permute(0, 2, 3, 1))).unflatten(0, lead)
