"""Encoder layers: tokens look at each other before queries look at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from detr2d.attention import Memory
from detr2d.decoder import feed_forward
from detr2d.linear import MultiheadAttention


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each added and then normalised (post-norm; DETR, fig. 10).

    Positions are added to queries and keys, not to values.
    """

    def __init__(
        self, *, channels: int = 256, heads: int = 8, hidden: int = 2048, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(channels, heads, dropout)
        self.self_dropout = nn.Dropout(dropout)
        self.self_norm = nn.LayerNorm(channels)
        self.feed_forward = feed_forward(channels, hidden, dropout)
        self.feed_forward_norm = nn.LayerNorm(channels)

    def forward(self, memory: Memory) -> Tensor:
        """Tokens (B, N, C) after this layer."""
        attended = attend(self.self_attention, memory.tokens, memory)
        tokens = self.self_norm(memory.tokens + self.self_dropout(attended))
        return self.feed_forward_norm(tokens + self.feed_forward(tokens))


class PreNormEncoderLayer(nn.Module):
    """Normalise, self-attention, add; normalise, feed-forward, add (DETR's pre-norm option)."""

    def __init__(
        self, *, channels: int = 256, heads: int = 8, hidden: int = 2048, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(channels, heads, dropout)
        self.self_dropout = nn.Dropout(dropout)
        self.self_norm = nn.LayerNorm(channels)
        self.feed_forward = feed_forward(channels, hidden, dropout)
        self.feed_forward_norm = nn.LayerNorm(channels)

    def forward(self, memory: Memory) -> Tensor:
        """Tokens (B, N, C) after this layer, not normalised."""
        attended = attend(self.self_attention, self.self_norm(memory.tokens), memory)
        tokens = memory.tokens + self.self_dropout(attended)
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


def attend(attention: MultiheadAttention, tokens: Tensor, memory: Memory) -> Tensor:
    """Self-attention of tokens (B, N, C) at the positions and with the padding of ``memory``."""
    placed = tokens + memory.positions
    attended, _ = attention(
        placed, placed, tokens, key_padding_mask=memory.padding, need_weights=False
    )
    return attended


class Encoder(nn.Module):
    """Encoder layers and, after pre-norm layers, a last ``norm``."""

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, memory: Memory) -> Memory:
        """The same memory with tokens (B, N, C) that have looked at each other."""
        for layer in self.layers:
            memory = replace(memory, tokens=layer(memory))
        return replace(memory, tokens=self.norm(memory.tokens))
