from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from detr2d.linear import Linear, MultiheadAttention

CHANNELS, HEADS, QUERIES, KEYS = 32, 4, 5, 7


def pair() -> tuple[MultiheadAttention, nn.MultiheadAttention]:
    """Ours and torch's with the same weights, biases too."""
    ours = MultiheadAttention(CHANNELS, HEADS)
    for bias in (ours.in_proj_bias, ours.out_proj.bias):
        nn.init.normal_(bias)
    theirs = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


PADDING = torch.zeros(2, KEYS, dtype=torch.bool)
PADDING[1, 4:] = True
HIDDEN = torch.eye(QUERIES, KEYS, dtype=torch.bool)


@pytest.mark.parametrize(
    "masks",
    [{}, {"key_padding_mask": PADDING}, {"attn_mask": HIDDEN},
     {"key_padding_mask": PADDING, "attn_mask": HIDDEN}],
    ids=lambda masks: "+".join(masks) or "none",
)  # fmt: skip
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_is_torchs_forward_and_backward(masks: Any, need_weights: bool) -> None:
    ours, theirs = pair()
    query = torch.randn(2, QUERIES, CHANNELS)
    key, value = torch.randn(2, 2, KEYS, CHANNELS).unbind(0)
    found, weights = ours(query, key, value, need_weights=need_weights, **masks)
    expected, _ = theirs(query, key, value, need_weights=need_weights, **masks)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (weights is not None) == need_weights
    away = torch.randn_like(found)
    gradients = [
        torch.autograd.grad(output, list(module.parameters()), away)
        for module, output in ((ours, found), (theirs, expected))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_attention_drops_weights_in_training_only() -> None:
    ours = MultiheadAttention(CHANNELS, HEADS, dropout=0.5)
    query = torch.randn(1, QUERIES, CHANNELS)
    dropped = [ours(query, query, query, need_weights=False)[0] for _ in range(2)]
    assert not torch.equal(*dropped)
    kept = [ours.eval()(query, query, query, need_weights=False)[0] for _ in range(2)]
    assert torch.equal(*kept)


def test_a_linear_layer_is_torchs() -> None:
    ours, theirs = Linear(64, 48), nn.Linear(64, 48)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, 400, 64)
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-5, atol=1e-5)
