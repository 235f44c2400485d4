"""DETR's transformer: tokens look at each other, then queries look at the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from detr2d.attention import DenseAttention, Memory
from detr2d.decoder import DecoderLayer, PreNormDecoderLayer
from detr2d.encoder import Encoder, EncoderLayer, PreNormEncoderLayer


class Transformer(nn.Module):
    """Encoder and decoder of DETR (section 3.2): learned query positions, contents from zero."""

    def __init__(
        self,
        *,
        encoder: Encoder,
        queries: nn.Embedding,
        decoder: Sequence[nn.Module],
        decoder_norm: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.queries = queries
        self.decoder = nn.ModuleList(decoder)
        self.decoder_norm = decoder_norm

    def forward(self, memory: Memory) -> tuple[Tensor, Memory]:
        """Queries (L, B, Q, C) after each layer, normalised, and the memory they looked at."""
        memory = self.encoder(memory)
        query_pos = self.queries.weight.expand(len(memory.tokens), -1, -1)
        query = torch.zeros_like(query_pos)
        outputs = []
        for layer in self.decoder:
            query, _ = layer(query, query_pos, None, memory)
            outputs.append(self.decoder_norm(query))
        return torch.stack(outputs), memory


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Settings of a ``Transformer``; the defaults are DETR's."""

    channels: int = 256
    """Width of tokens and queries."""
    heads: int = 8
    """Attention heads."""
    hidden: int = 2048
    """Width of the feed-forward blocks."""
    dropout: float = 0.1
    """Dropout in all layers."""
    encoder_layers: int = 6
    """Encoder layers."""
    decoder_layers: int = 6
    """Decoder layers."""
    num_queries: int = 100
    """Objects that can be found in one image."""
    norm: Literal["post", "pre"] = "post"
    """Normalise after each addition, or before each step."""

    def build(self) -> Transformer:
        """Build the transformer with random weights."""
        encoder_layer = EncoderLayer if self.norm == "post" else PreNormEncoderLayer
        decoder_layer = DecoderLayer if self.norm == "post" else PreNormDecoderLayer
        last_norm = nn.Identity() if self.norm == "post" else nn.LayerNorm(self.channels)
        layers = [
            encoder_layer(
                channels=self.channels, heads=self.heads, hidden=self.hidden, dropout=self.dropout
            )
            for _ in range(self.encoder_layers)
        ]
        return Transformer(
            encoder=Encoder(layers, last_norm),
            queries=nn.Embedding(self.num_queries, self.channels),
            decoder=[
                decoder_layer(
                    DenseAttention(channels=self.channels, heads=self.heads, dropout=self.dropout),
                    channels=self.channels,
                    heads=self.heads,
                    hidden=self.hidden,
                    dropout=self.dropout,
                )
                for _ in range(self.decoder_layers)
            ],
            decoder_norm=nn.LayerNorm(self.channels),
        )
