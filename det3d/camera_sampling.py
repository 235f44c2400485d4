"""How a 3D query looks at cameras: project its reference point, sample the image features there.

DETR3D (Wang et al., CoRL 2021), section 3.2. Two forms of the same idea: ``IndexedCameraSampling``
is the paper's, whose weights know each camera by its index; ``RigFreeCameraSampling`` knows cameras
by their geometry only, so their number and order are data.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from det3d.camera_gather import CameraFeatures, gather
from det3d.cameras import CameraRig
from det3d.geometry import Region, transform_points
from detr2d.constants import constant
from detr2d.decoder import inverse_sigmoid
from detr2d.linear import Linear
from detr2d.looks import Looks
from detr2d.structures import at_least_float32


class IndexedCameraSampling(nn.Module):
    """The paper's cross-attention: one point a query, one sigmoid weight a camera and level.

    The weights are a linear function of the query with one output per camera index and level, so
    the number and the order of cameras are fixed at training. ``position`` embeds the reference.
    As in the released code, a camera sees whatever falls on the canvas, padding included.
    """

    def __init__(
        self, region: Region, *, channels: int, num_cameras: int, num_levels: int, dropout: float
    ) -> None:
        super().__init__()
        self.region = region
        self.num_cameras = num_cameras
        self.weights = Linear(channels, num_cameras * num_levels)
        self.output = Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.position = _position_embedding(channels)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, query: Tensor, query_pos: Tensor, reference: Tensor, memory: CameraFeatures
    ) -> tuple[Tensor, Tensor]:
        """Update (B, Q, C) and the sampled points (B, Q, 1, 3) in the unit cube.

        Raises ValueError if the rig has not the trained number of cameras.
        """
        gathered = gather(memory, *self._aim(query, query_pos, reference, memory))
        update = self.dropout(self.output(gathered)) + self.position(inverse_sigmoid(reference))
        return update, reference.detach().unsqueeze(2)

    def looks(
        self, query: Tensor, query_pos: Tensor, reference: Tensor, memory: CameraFeatures
    ) -> Looks:
        """The one place in each camera and its sigmoid weights, summed over levels."""
        return camera_looks(memory, *self._aim(query, query_pos, reference, memory))

    def _aim(
        self, query: Tensor, query_pos: Tensor, reference: Tensor, memory: CameraFeatures
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels, weights and visibility as ``gather`` takes them."""
        if memory.rig.num_cameras != self.num_cameras:
            raise ValueError(
                f"these weights are tied to {self.num_cameras} cameras in a fixed order, the rig "
                f"has {memory.rig.num_cameras}; use rig-free sampling for other rigs"
            )
        sizes = memory.rig.image_sizes
        rig = replace(memory.rig, image_sizes=constant(memory.canvas, sizes).expand_as(sizes))
        projection = rig.project(self.region.to_metres(at_least_float32(reference)))
        weights = at_least_float32(self.weights(query + query_pos)).sigmoid()
        weights = weights.unflatten(-1, (self.num_cameras, 1, -1, 1)).transpose(1, 2)
        pixels, visible = (
            projection.pixels[:, :, :, None, None],
            projection.visible[..., None, None],
        )
        return pixels, weights, visible


class RigFreeCameraSampling(nn.Module):
    """Several points around the reference, softmax weights over whatever cameras see them.

    Each of ``heads`` groups of channels looks at ``num_points`` points: the reference plus learned
    offsets in metres, within ``reach``. Its weights over (visible camera, level, point) depend on
    the query and on the reference as that camera sees it (direction, distance), not on an index:
    permuting cameras permutes the sum, and an absent or blind camera has weight zero. A query that
    no camera sees keeps only its position embedding.
    """

    def __init__(
        self,
        region: Region,
        *,
        channels: int,
        heads: int,
        num_levels: int,
        num_points: int,
        dropout: float,
        reach: float = 4.0,
    ) -> None:
        super().__init__()
        self.region = region
        self.heads = heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.reach = reach
        self.offsets = Linear(channels, heads * num_points * 3)
        self.weights = Linear(channels, heads * num_levels * num_points)
        self.geometry = nn.Sequential(Linear(4, channels), nn.ReLU(inplace=True))
        self.geometry_weights = Linear(channels, heads * num_levels * num_points)
        self.output = Linear(2 * channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.position = _position_embedding(channels)
        nn.init.zeros_(self.offsets.weight)
        nn.init.uniform_(self.offsets.bias, -0.5, 0.5)
        for linear in (self.weights, self.geometry_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, query: Tensor, query_pos: Tensor, reference: Tensor, memory: CameraFeatures
    ) -> tuple[Tensor, Tensor]:
        """Update (B, Q, C) and the sampled points (B, Q, heads * points, 3) in the unit cube."""
        points, aim, geometry = self._aim(query, query_pos, reference, memory)
        gathered = gather(memory, *aim)  # (B, Q, C)
        seen = aim[1].sum((-1, -2, -3)).unsqueeze(-1) / self.heads  # (B, V, Q, 1)
        viewpoint = (seen * geometry).sum(1)
        update = self.dropout(self.output(torch.cat([gathered, viewpoint], dim=-1)))
        update = update + self.position(inverse_sigmoid(reference))
        return update, self.region.to_unit(points.detach().flatten(2, 3))

    def looks(
        self, query: Tensor, query_pos: Tensor, reference: Tensor, memory: CameraFeatures
    ) -> Looks:
        """The places of all heads in each camera and their weights, summed over levels."""
        _, aim, _ = self._aim(query, query_pos, reference, memory)
        return camera_looks(memory, *aim)

    def _aim(
        self, query: Tensor, query_pos: Tensor, reference: Tensor, memory: CameraFeatures
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
        """Points (B, Q, heads, points, 3) in metres, pixels, weights and visibility as ``gather``
        takes them, and the embedded geometry (B, V, Q, C) of each camera.
        """
        split = (self.heads, self.num_points)
        state = query + query_pos
        centre = self.region.to_metres(at_least_float32(reference))  # (B, Q, 3)
        offsets = self.reach * at_least_float32(self.offsets(state)).tanh().unflatten(
            -1, (*split, 3)
        )
        points = centre[:, :, None, None] + offsets  # (B, Q, heads, points, 3)
        projection = memory.rig.project(points.flatten(1, 3))
        pixels = projection.pixels.unflatten(2, points.shape[1:4])
        visible = projection.visible.unflatten(2, points.shape[1:4])  # (B, V, Q, heads, points)

        geometry = self.geometry(_camera_view(memory.rig, centre))  # (B, V, Q, C)
        logits = self.weights(state).unsqueeze(1) + self.geometry_weights(geometry)
        logits = at_least_float32(logits).unflatten(
            -1, (self.heads, self.num_levels, self.num_points)
        )
        weights = _softmax_over_visible(logits, visible.unsqueeze(-2))
        return points, (pixels, weights, visible), geometry


def camera_looks(memory: CameraFeatures, pixels: Tensor, weights: Tensor, visible: Tensor) -> Looks:
    """Looks with P = heads * points of what ``gather`` is given, shapes as there."""
    height, width = memory.canvas
    places = pixels / constant((width, height), pixels)
    seen = (weights * visible.unsqueeze(-2)).sum(-2) / weights.shape[3]  # (B, V, Q, heads, P)
    places = places.expand(*seen.shape, 2)
    return Looks(places.flatten(3, 4), seen.flatten(3, 4))


def _position_embedding(channels: int) -> nn.Sequential:
    return nn.Sequential(
        Linear(3, channels),
        nn.LayerNorm(channels),
        nn.ReLU(inplace=True),
        Linear(channels, channels),
        nn.LayerNorm(channels),
        nn.ReLU(inplace=True),
    )


def _camera_view(rig: CameraRig, points_ref: Tensor) -> Tensor:
    """Points (B, Q, 3) as each camera sees them: unit direction and log distance, (B, V, Q, 4)."""
    points_camera = transform_points(rig.camera_from_ref, points_ref.unsqueeze(1))
    distance = points_camera.norm(dim=-1, keepdim=True).clamp(min=1e-2)
    return torch.cat([points_camera / distance, distance.log()], dim=-1)


def _softmax_over_visible(logits: Tensor, visible: Tensor) -> Tensor:
    """Softmax over cameras, levels and points of (B, V, Q, heads, levels, points), visible only.

    Where nothing is visible all weights are zero. The masked entries are finite throughout, so
    gradients are too.
    """
    visible = visible.expand_as(logits)
    lowest = logits.masked_fill(~visible, -1e9)
    peak = lowest.amax((1, -2, -1), keepdim=True).detach().clamp(min=-1e8)
    weights = (logits - peak).clamp(max=0).exp() * visible
    return weights / weights.sum((1, -2, -1), keepdim=True).clamp(min=1e-9)
