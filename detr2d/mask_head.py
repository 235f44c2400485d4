"""DETR's mask head: where each query looks, turned into a mask by the backbone's finer features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr2d.attention import Memory


class AttentionMaps(nn.Module):
    """Multi-head attention weights of queries over all tokens, without values (DETR, figure 8)."""

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.query, self.key):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, memory: Memory) -> Tensor:
        """Weights (B, Q, heads, N) of queries (B, Q, C); they sum to one over heads *and* tokens.

        The joint softmax is that of the released code.
        """
        query = self.query(queries).unflatten(-1, (self.heads, -1))
        key = self.key(memory.tokens).unflatten(-1, (self.heads, -1))
        scale = 1 / math.sqrt(query.shape[-1])
        weights = torch.einsum("bqhc,bnhc->bqhn", query * scale, key)
        weights = weights.masked_fill(memory.padding[:, None, None], -math.inf)
        return self.dropout(weights.flatten(2).softmax(-1).view_as(weights))


class MaskHead(nn.Module):
    """Convolutions over each query's attention maps, upsampled with three finer feature maps.

    ``channels`` of the projected features, ``heads`` attention maps per query, ``finer`` channels
    of the backbone's maps, coarsest first. DETR, section 4.4 and figure 8.
    """

    def __init__(self, channels: int, heads: int, finer: Sequence[int], groups: int = 8) -> None:
        super().__init__()
        if len(finer) != 3:
            raise ValueError(f"the mask head needs 3 finer maps, got {len(finer)}")
        width = channels + heads
        widths = [width, *(channels // 2**power for power in (1, 2, 3, 4))]
        steps = list(itertools.pairwise(widths))
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in steps)
        self.norms = nn.ModuleList(
            nn.GroupNorm(math.gcd(groups, b), b) for b in (width, *widths[1:])
        )
        self.adapters = nn.ModuleList(
            nn.Conv2d(a, b, 1) for a, b in zip(finer, widths[1:4], strict=True)
        )
        self.to_mask = nn.Conv2d(widths[-1], 1, 3, padding=1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 4:
                nn.init.kaiming_uniform_(parameter, a=1)

    def forward(self, features: Tensor, attention: Tensor, finer: Sequence[Tensor]) -> Tensor:
        """Mask logits (B, Q, H, W) at the size of the finest map.

        features (B, C, h, w): the projected map; attention (B, Q, heads, h, w); finer: maps
        (B, C_i, h_i, w_i), coarsest first.
        """
        batch, num_queries = attention.shape[:2]
        first_norm, *norms = self.norms
        x = F.relu(first_norm(self._start(features, attention)))  # (B Q, C + heads, h, w)
        x = F.relu(norms[0](self.convs[0](x)))
        steps = zip(self.adapters, finer, self.convs[1:], norms[1:], strict=True)
        for adapter, feature, conv, norm in steps:
            lateral = adapter(feature).repeat_interleave(num_queries, dim=0)
            x = lateral + F.interpolate(x, lateral.shape[-2:], mode="nearest")
            x = F.relu(norm(conv(x)))
        return self.to_mask(x).unflatten(0, (batch, num_queries)).squeeze(2)

    def _start(self, features: Tensor, attention: Tensor) -> Tensor:
        """First convolution of (features, attention maps); the features' part once per image."""
        sizes = [features.shape[1], attention.shape[2]]
        shared, own = self.first.weight.split(sizes, dim=1)
        image_part = F.conv2d(features, shared, self.first.bias, padding=1)
        query_part = F.conv2d(attention.flatten(0, 1), own, padding=1)
        return query_part + image_part.repeat_interleave(attention.shape[1], dim=0)
