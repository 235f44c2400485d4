"""Decoder blocks that all systems share: the layer, the heads and the refinement of references."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from detr2d.linear import Linear, MultiheadAttention

EPS = 1e-5  # inverse_sigmoid's clamp in the released code of this family


class CrossAttention(Protocol):
    """How queries look at their memory; the memory's type is the attention's own business."""

    def __call__(
        self, query: Tensor, query_pos: Tensor, reference: Tensor | None, memory: object
    ) -> tuple[Tensor, Tensor | None]:
        """Update (B, Q, C) that is added to the queries, and where it looked, for eyes only.

        query, query_pos (B, Q, C); reference (B, Q, n) in [0, 1], None for queries without one;
        the second output is (B, Q, P, n) in the reference's unit, detached, or None.
        """


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each added and then normalised (post-norm).

    The one order that DETR, Deformable DETR, DINO, DETR3D and PETR use. Query positions are added
    to queries and keys of the self-attention, not to its values.
    """

    def __init__(
        self,
        cross_attention: nn.Module,
        *,
        channels: int = 256,
        heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(channels, heads, dropout)
        self.self_dropout = nn.Dropout(dropout)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = cross_attention
        self.cross_norm = nn.LayerNorm(channels)
        self.feed_forward = feed_forward(channels, hidden, dropout)
        self.feed_forward_norm = nn.LayerNorm(channels)

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        reference: Tensor | None,
        memory: object,
        self_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Queries (B, Q, C) after this layer, and where its cross-attention looked.

        self_mask (Q, Q) bool, True where a query (row) must not look at another (column).
        """
        keys = query + query_pos
        attended, _ = self.self_attention(
            keys, keys, query, attn_mask=self_mask, need_weights=False
        )
        query = self.self_norm(query + self.self_dropout(attended))
        looked, sampling_points = self.cross_attention(query, query_pos, reference, memory)
        query = self.cross_norm(query + looked)
        query = self.feed_forward_norm(query + self.feed_forward(query))
        return query, sampling_points


class PreNormDecoderLayer(nn.Module):
    """Each step normalises first and is added unnormalised (DETR's pre-norm option)."""

    def __init__(
        self,
        cross_attention: nn.Module,
        *,
        channels: int = 256,
        heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(channels, heads, dropout)
        self.self_dropout = nn.Dropout(dropout)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = cross_attention
        self.cross_norm = nn.LayerNorm(channels)
        self.feed_forward = feed_forward(channels, hidden, dropout)
        self.feed_forward_norm = nn.LayerNorm(channels)

    def forward(
        self, query: Tensor, query_pos: Tensor, reference: Tensor | None, memory: object
    ) -> tuple[Tensor, Tensor | None]:
        """Queries (B, Q, C) after this layer, not normalised, and where it looked."""
        values = self.self_norm(query)
        keys = values + query_pos
        attended, _ = self.self_attention(keys, keys, values, need_weights=False)
        query = query + self.self_dropout(attended)
        looked, sampling_points = self.cross_attention(
            self.cross_norm(query), query_pos, reference, memory
        )
        query = query + looked
        return query + self.feed_forward(self.feed_forward_norm(query)), sampling_points


def feed_forward(channels: int, hidden: int, dropout: float) -> nn.Sequential:
    """Linear, ReLU, Dropout, Linear, Dropout: what follows attention in every layer."""
    widen, narrow = Linear(channels, hidden), Linear(hidden, channels)
    for linear in (widen, narrow):
        nn.init.xavier_uniform_(linear.weight)
    return nn.Sequential(
        widen, nn.ReLU(inplace=True), nn.Dropout(dropout), narrow, nn.Dropout(dropout)
    )


def inverse_sigmoid(x: Tensor, eps: float = EPS) -> Tensor:
    """Logit of x in [0, 1], clamped to finite values: +-11.5 with the default ``eps``."""
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()


def refine(delta: Tensor, reference: Tensor, eps: float = EPS) -> Tensor:
    """Add ``inverse_sigmoid(reference)`` (..., n) to the first n entries of ``delta`` (..., D)."""
    n = reference.shape[-1]
    return torch.cat([delta[..., :n] + inverse_sigmoid(reference, eps), delta[..., n:]], dim=-1)


def prior_bias(prior: float = 0.01) -> float:
    """Bias of a class head whose every score is ``prior`` at first.

    RetinaNet (Lin et al., ICCV 2017), section 4.1.
    """
    return -math.log((1 - prior) / prior)


def class_head(channels: int, num_classes: int, prior: float = 0.01) -> nn.Sequential:
    """Two (Linear, LayerNorm, ReLU) and a Linear with ``prior_bias``."""
    last = Linear(channels, num_classes)
    nn.init.constant_(last.bias, prior_bias(prior))
    return nn.Sequential(
        Linear(channels, channels),
        nn.LayerNorm(channels),
        nn.ReLU(inplace=True),
        Linear(channels, channels),
        nn.LayerNorm(channels),
        nn.ReLU(inplace=True),
        last,
    )


def box_head(channels: int, code_size: int) -> nn.Sequential:
    """Two (Linear, ReLU) and a Linear that starts at zero: the first boxes are the references."""
    head = perceptron(channels, code_size)
    for parameter in head[-1].parameters():
        nn.init.zeros_(parameter)
    return head


def perceptron(channels: int, out_channels: int) -> nn.Sequential:
    """Two (Linear, ReLU) and a Linear, initialised as torch does: DETR's box head."""
    return nn.Sequential(
        Linear(channels, channels),
        nn.ReLU(inplace=True),
        Linear(channels, channels),
        nn.ReLU(inplace=True),
        Linear(channels, out_channels),
    )
