"""Dense attention: every query looks at every valid token of its image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from detr2d.linear import MultiheadAttention
from detr2d.looks import Looks, dense_looks
from detr2d.structures import Batch


@dataclass(frozen=True)
class Memory(Batch):
    """Tokens of B images that queries look at.

    tokens (B, N, C); positions (B, N, C), added where tokens are compared, not where they are
    read; padding (B, N) bool, True = not to be looked at; grid: sizes ([V,] h, w) of the maps that
    the tokens are, row by row, where they are (for eyes only).
    """

    tokens: Tensor
    positions: Tensor
    padding: Tensor
    grid: tuple[int, ...] = ()


class DenseAttention(nn.Module):
    """Cross-attention to all tokens of a ``Memory`` (DETR, figure 10), for decoder layers."""

    def __init__(self, *, channels: int = 256, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = MultiheadAttention(channels, heads, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, query: Tensor, query_pos: Tensor, reference: Tensor | None, memory: Memory
    ) -> tuple[Tensor, None]:
        """Update (B, Q, C) of queries (B, Q, C); references are not looked at."""
        attended, _ = self.attention(
            query + query_pos,
            memory.tokens + memory.positions,
            memory.tokens,
            key_padding_mask=memory.padding,
            need_weights=False,
        )
        return self.dropout(attended), None

    def looks(
        self, query: Tensor, query_pos: Tensor, reference: Tensor | None, memory: Memory
    ) -> Looks:
        """The attention weights of ``forward``, the mean over heads."""
        _, weights = self.attention(
            query + query_pos,
            memory.tokens + memory.positions,
            memory.tokens,
            key_padding_mask=memory.padding,
        )
        return dense_looks(weights, memory.grid or (1, memory.tokens.shape[1]))


def spatial_memory(features: Tensor, padding: Tensor, positions: Tensor) -> Memory:
    """Memory, row by row, of maps (B, C, h, w) with padding (B, h, w), positions (B, h, w, C)."""
    return Memory(
        tokens=features.flatten(2).transpose(1, 2),
        positions=positions.flatten(1, 2).to(features),
        padding=padding.flatten(1),
        grid=(features.shape[-2], features.shape[-1]),
    )
