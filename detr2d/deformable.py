"""Multi-scale deformable attention: every query looks at a few points it chooses on all levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detr2d.constants import constant
from detr2d.decoder import DecoderLayer, feed_forward
from detr2d.encoder import Encoder
from detr2d.images import resize_padding
from detr2d.linear import Linear
from detr2d.looks import Looks
from detr2d.ops.sampling import multi_scale_deformable_attention
from detr2d.structures import Batch, FeaturePyramid, at_least_float32


@dataclass(frozen=True)
class MultiScaleMemory(Batch):
    """Tokens of B images on several levels that queries look at.

    tokens, positions (B, N, C): the maps one after the other, each row by row, and what is added
    where tokens act as queries; padding (B, N) bool, True = not to be looked at; cells (B, N, 2):
    (x, y) of each token's centre, 0 and 1 at the edges of the image's valid area; spatial_shapes:
    (height, width) of each level; valid_ratios (B, levels, 2): (x, y) share of each level's map
    that is valid. Cells and ratios are float32 whatever the tokens are.
    """

    tokens: Tensor
    positions: Tensor
    padding: Tensor
    cells: Tensor
    spatial_shapes: tuple[tuple[int, int], ...]
    valid_ratios: Tensor

    def detached(self) -> MultiScaleMemory:
        """The same, whose tokens pass no gradients to what made them."""
        return replace(self, tokens=self.tokens.detach())


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Deformable DETR, eq. 3), for encoder and decoder layers.

    Each head looks at ``points`` places per level around the query's reference; places and weights
    are linear in the query. At first the heads look in different directions, the points of a head
    ever further away, with equal weights (released code).
    """

    def __init__(
        self,
        *,
        channels: int = 256,
        heads: int = 8,
        levels: int = 4,
        points: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be divided among {heads} heads")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = Linear(channels, heads * levels * points * 2)
        self.weights = Linear(channels, heads * levels * points)
        self.value = Linear(channels, channels)
        self.output = Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        rings = offset_rings(heads, points).unsqueeze(1)  # (heads, 1, points, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(rings.expand(-1, levels, -1, -1).flatten())

    def forward(
        self, query: Tensor, query_pos: Tensor, reference: Tensor, memory: MultiScaleMemory
    ) -> tuple[Tensor, Tensor]:
        """Update (B, Q, C) of queries (B, Q, C), and where they looked.

        reference (B, Q, 2 or 4): a point, or a box (centre x, centre y, width, height), in [0, 1]
        of the valid area; the places are (B, Q, heads * levels * points, 2) in the same unit.
        """
        scaled = on_canvas(reference, memory)
        locations, weights = self._aim(query + query_pos, scaled, memory)
        updates = self._sample(locations, weights, memory)
        places = locations.detach() / memory.valid_ratios[:, None, None, :, None]
        return self.dropout(updates), places.flatten(2, 4)

    def looks(
        self, query: Tensor, query_pos: Tensor, reference: Tensor, memory: MultiScaleMemory
    ) -> Looks:
        """The places of all heads, levels and points, and their weights, which sum to 1."""
        locations, weights = self._aim(query + query_pos, on_canvas(reference, memory), memory)
        return Looks(
            locations.flatten(2, 4).unsqueeze(1), weights.flatten(2).unsqueeze(1) / self.heads
        )

    def look(
        self, query: Tensor, reference: Tensor, memory: MultiScaleMemory
    ) -> tuple[Tensor, Tensor]:
        """Update (B, Q, C) and locations (B, Q, heads, levels, points, 2) on the canvas.

        query (B, Q, C) with its position; reference (B, Q, levels, 2 or 4) on the canvas.
        """
        locations, weights = self._aim(query, reference, memory)
        return self._sample(locations, weights, memory), locations

    def _aim(
        self, query: Tensor, reference: Tensor, memory: MultiScaleMemory
    ) -> tuple[Tensor, Tensor]:
        """Locations and weights (B, Q, heads, levels, points), which sum to 1 for each head."""
        offsets = at_least_float32(self.offsets(query))
        offsets = offsets.unflatten(-1, (self.heads, self.levels, self.points, 2))
        weights = at_least_float32(self.weights(query)).unflatten(-1, (self.heads, -1)).softmax(-1)
        centre, size = reference[:, :, None, :, None, :2], reference[:, :, None, :, None, 2:]
        if reference.shape[-1] == 2:
            sizes = map_sizes(memory.spatial_shapes, reference)
            locations = centre + offsets / sizes[:, None]
        else:
            locations = centre + offsets / self.points * size * 0.5
        return locations, weights.unflatten(-1, (self.levels, self.points))

    def _sample(self, locations: Tensor, weights: Tensor, memory: MultiScaleMemory) -> Tensor:
        """Update (B, Q, C): weighted values at the locations."""
        value = self.value(memory.tokens).masked_fill(memory.padding.unsqueeze(-1), 0)
        sampled = multi_scale_deformable_attention(
            value.unflatten(-1, (self.heads, -1)), memory.spatial_shapes, locations, weights
        )
        return self.output(sampled)


def on_canvas(reference: Tensor, memory: MultiScaleMemory) -> Tensor:
    """References (B, Q, 2 or 4) in the valid area as (B, Q, levels, 2 or 4) on the canvas."""
    ratios = memory.valid_ratios.unsqueeze(1)  # (B, 1, levels, 2)
    scale = torch.cat([ratios, ratios], dim=-1)[..., : reference.shape[-1]]
    return reference.unsqueeze(2) * scale


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each added and then normalised (post-norm)."""

    def __init__(
        self, attention: DeformableAttention, *, channels: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = attention
        self.self_norm = nn.LayerNorm(channels)
        self.feed_forward = feed_forward(channels, hidden, dropout)
        self.feed_forward_norm = nn.LayerNorm(channels)

    def forward(self, memory: MultiScaleMemory) -> Tensor:
        """Tokens (B, N, C) after each has looked around its own cell on all levels."""
        update, _ = self.self_attention(memory.tokens, memory.positions, memory.cells, memory)
        tokens = self.self_norm(memory.tokens + update)
        return self.feed_forward_norm(tokens + self.feed_forward(tokens))


def offset_rings(heads: int, points: int) -> Tensor:
    """First offsets (heads, points, 2) in cells: a direction for each head, at distance 1, 2, ...

    Distances are counted along the longer axis, so that all places lie on square rings.
    """
    angle = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    return direction.unsqueeze(1) * torch.arange(1, points + 1).view(-1, 1)


class PyramidTokens(nn.Module):
    """From feature maps to tokens with their places, and a learned vector for each level.

    ``positions`` embeds the padding of each level, as ``SinePositions`` does.
    """

    def __init__(self, positions: nn.Module, *, levels: int, channels: int) -> None:
        super().__init__()
        self.positions = positions
        self.level_embedding = nn.Parameter(torch.randn(levels, channels))

    def forward(self, pyramid: FeaturePyramid, padding: Tensor) -> MultiScaleMemory:
        """Memory of maps (B, C, H_i, W_i) on a canvas whose padding is (B, H, W) bool."""
        shapes = tuple((level.shape[-2], level.shape[-1]) for level in pyramid)
        masks = [resize_padding(padding, *shape) for shape in shapes]
        ratios = torch.stack([valid_ratio(mask) for mask in masks], dim=1)
        places = [
            self.positions(mask).flatten(1, 2).to(level) + embedding
            for mask, level, embedding in zip(masks, pyramid, self.level_embedding, strict=True)
        ]
        return MultiScaleMemory(
            tokens=torch.cat([level.flatten(2).transpose(1, 2) for level in pyramid], dim=1),
            positions=torch.cat(places, dim=1),
            padding=torch.cat([mask.flatten(1) for mask in masks], dim=1),
            cells=cell_centres(shapes, ratios * map_sizes(shapes, ratios)),
            spatial_shapes=shapes,
            valid_ratios=ratios,
        )


def valid_ratio(padding: Tensor) -> Tensor:
    """Share (B, 2) of columns and rows, (x, y), of a map that its image covers; padding (B, h, w).

    Read off the first row and column, float32.
    """
    height, width = padding.shape[1:]
    rows, columns = (~padding[:, :, 0]).sum(1), (~padding[:, 0]).sum(1)
    return torch.stack([columns.float() / width, rows.float() / height], dim=-1)


def map_sizes(spatial_shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """(width, height) of each level as a tensor (levels, 2)."""
    return constant(tuple((width, height) for height, width in spatial_shapes), like)


def cell_centres(spatial_shapes: Sequence[tuple[int, int]], extents: Tensor) -> Tensor:
    """Centres (B, N, 2) of all cells, (x, y), 0 and 1 at the edges of each image's valid area.

    extents (B, levels, 2): how many cells of each level are valid, in x and y.
    """
    centres = []
    for level, (height, width) in enumerate(spatial_shapes):
        rows = torch.arange(height, device=extents.device, dtype=extents.dtype) + 0.5
        columns = torch.arange(width, device=extents.device, dtype=extents.dtype) + 0.5
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        cells = torch.stack([x.flatten(), y.flatten()], dim=-1)
        centres.append(cells / extents[:, level : level + 1])
    return torch.cat(centres, dim=1)


@dataclass(frozen=True, kw_only=True)
class DeformableConfig:
    """Settings of deformable encoder and decoder layers; the defaults are Deformable DETR's."""

    channels: int = 256
    """Width of tokens and queries."""
    heads: int = 8
    """Attention heads."""
    points: int = 4
    """Points per head and level."""
    hidden: int = 1024
    """Width of the feed-forward blocks."""
    dropout: float = 0.1
    """Dropout in all layers."""
    encoder_layers: int = 6
    """Encoder layers."""
    decoder_layers: int = 6
    """Decoder layers."""

    def build_encoder(self, levels: int) -> Encoder:
        """Encoder layers for maps on so many levels."""
        layers = [
            DeformableEncoderLayer(
                self.build_attention(levels),
                channels=self.channels,
                hidden=self.hidden,
                dropout=self.dropout,
            )
            for _ in range(self.encoder_layers)
        ]
        return Encoder(layers, nn.Identity())

    def build_decoder(self, levels: int) -> list[DecoderLayer]:
        """Decoder layers that look at so many levels."""
        layers = [
            DecoderLayer(
                self.build_attention(levels),
                channels=self.channels,
                heads=self.heads,
                hidden=self.hidden,
                dropout=self.dropout,
            )
            for _ in range(self.decoder_layers)
        ]
        for layer in layers:
            nn.init.xavier_uniform_(layer.self_attention.out_proj.weight)
        return layers

    def build_attention(self, levels: int) -> DeformableAttention:
        """One deformable attention over so many levels."""
        return DeformableAttention(
            channels=self.channels,
            heads=self.heads,
            levels=levels,
            points=self.points,
            dropout=self.dropout,
        )
