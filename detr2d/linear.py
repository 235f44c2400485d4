"""Linear layers and attention with torch's names, on ``detr2d.ops.matrix``."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detr2d.ops.matrix import linear


class Linear(nn.Linear):
    """``nn.Linear``."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., N) of tokens (..., K)."""
        return linear(tokens, self.weight, self.bias)


class MultiheadAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` of tokens (B, N, C) with one width for all."""

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(channels, heads, dropout, batch_first=True)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Update (B, Q, C) of queries (B, Q, C), and weights (B, Q, N) if needed, else None.

        key, value (B, N, C); key_padding_mask (B, N), attn_mask (Q, N) bool: True is not looked at.
        """
        if need_weights or is_causal:
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask,
                average_attn_weights, is_causal,
            )  # fmt: skip
        hidden = None if key_padding_mask is None else key_padding_mask[:, None, None]
        if attn_mask is not None:
            hidden = attn_mask if hidden is None else hidden | attn_mask
        queries, keys, values = self._project(query, key, value)
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if hidden is None else ~hidden,
            dropout_p=self.dropout if self.training else 0.0,
        )
        merged = attended.transpose(1, 2).flatten(2)
        return linear(merged, self.out_proj.weight, self.out_proj.bias), None

    def _project(self, *inputs: Tensor) -> list[Tensor]:
        """Queries, keys and values (B, heads, N, C / heads)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        return [
            linear(*step).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for step in zip(inputs, weights, biases, strict=True)
        ]
