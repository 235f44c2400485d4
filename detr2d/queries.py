"""Where queries come from: each source gives initial queries, references and query positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detr2d.positions import sine_embedding


class LearnedQueries(nn.Module):
    """Free embeddings; references are read off the position half by a linear layer.

    As in Deformable DETR (single stage) and DETR3D: the position half is the same for all layers.
    """

    def __init__(self, count: int, channels: int, reference_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, 2 * channels)
        self.to_reference = nn.Linear(channels, reference_size)
        nn.init.xavier_uniform_(self.to_reference.weight)
        nn.init.zeros_(self.to_reference.bias)

    def forward(self, num_images: int) -> tuple[Tensor, Tensor]:
        """Initial queries (B, Q, C) and references (B, Q, n) in [0, 1]."""
        positions, queries = self.embedding.weight.chunk(2, dim=-1)
        reference = self.to_reference(positions).sigmoid()
        return queries.expand(num_images, -1, -1), reference.expand(num_images, -1, -1)

    def positions(self, reference: Tensor) -> Tensor:
        """Query positions (B, Q, C): the learned half, wherever the references have moved."""
        return self.embedding.weight.chunk(2, dim=-1)[0].expand(len(reference), -1, -1)


class AnchorQueries(nn.Module):
    """References are the parameters; query positions are computed from where they stand now.

    As in DAB-DETR (Liu et al., ICLR 2022) and PETR. All queries start from one learned content, so
    what tells them apart is their place. ``anchors`` (Q, n) in [0, 1] is the initial layout.
    """

    def __init__(self, anchors: Tensor, channels: int, *, finest_period: float = 1 / 16) -> None:
        super().__init__()
        self.anchors = nn.Parameter(anchors.clone())
        self.content = nn.Parameter(torch.randn(channels))
        self.scale = 2 * math.pi / finest_period
        self.coordinate_channels = channels // 2
        self.embed = nn.Sequential(
            nn.Linear(anchors.shape[-1] * self.coordinate_channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
        )

    def forward(self, num_images: int) -> tuple[Tensor, Tensor]:
        """Initial queries (B, Q, C) and references (B, Q, n) in [0, 1]."""
        queries = self.content.expand(num_images, len(self.anchors), -1)
        return queries, self.anchors.clamp(0, 1).expand(num_images, -1, -1)

    def positions(self, reference: Tensor) -> Tensor:
        """Query positions (B, Q, C) of references (B, Q, n)."""
        waves = sine_embedding(
            reference, self.coordinate_channels, temperature=1e4, scale=self.scale
        )
        return self.embed(waves)


class PointQueries(nn.Module):
    """Free reference points, used as they are; contents start at zero (PETR, section 3.3).

    ``points`` (Q, n) is the initial layout. Trained points may leave [0, 1]: their embedding
    follows them, what refines them clamps. ``finest_period`` is the shortest wave of the embedding,
    in sides of the unit cube; shorter ones than the paper's 1 tell close points apart sooner.
    """

    def __init__(self, points: Tensor, channels: int, *, finest_period: float = 1.0) -> None:
        super().__init__()
        self.points = nn.Parameter(points.clone())
        self.channels = channels
        self.scale = 2 * math.pi / finest_period
        self.embed = nn.Sequential(
            nn.Linear(points.shape[-1] * (channels // 2), channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
        )

    def forward(self, num_images: int) -> tuple[Tensor, Tensor]:
        """Initial queries (B, Q, C) and references (B, Q, n)."""
        reference = self.points.expand(num_images, -1, -1)
        return reference.new_zeros(*reference.shape[:2], self.channels), reference

    def positions(self, reference: Tensor) -> Tensor:
        """Query positions (B, Q, C) of references (B, Q, n)."""
        waves = sine_embedding(reference, self.channels // 2, temperature=1e4, scale=self.scale)
        return self.embed(waves)
