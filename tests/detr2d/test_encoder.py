from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from detr2d.attention import DenseAttention, Memory, spatial_memory
from detr2d.encoder import Encoder, EncoderLayer, PreNormEncoderLayer
from detr2d.transformer import TransformerConfig

SMALL = {"channels": 16, "heads": 2, "hidden": 32, "dropout": 0.0}


def make_memory(tokens: int = 7, padded: int = 3) -> Memory:
    padding = torch.arange(tokens) >= tokens - padded
    return Memory(torch.randn(1, tokens, 16), torch.randn(1, tokens, 16), padding[None])


def without_padding(memory: Memory) -> Memory:
    keep = ~memory.padding[0]
    return Memory(memory.tokens[:, keep], memory.positions[:, keep], memory.padding[:, keep])


@pytest.mark.parametrize("kind", [EncoderLayer, PreNormEncoderLayer])
def test_padding_changes_no_valid_token(kind: type[nn.Module]) -> None:
    encoder, memory = Encoder([kind(**SMALL)], nn.Identity()), make_memory()
    whole, valid = encoder(memory), encoder(without_padding(memory))
    torch.testing.assert_close(whole.tokens[:, ~memory.padding[0]], valid.tokens)


@pytest.mark.parametrize("kind", [EncoderLayer, PreNormEncoderLayer])
def test_tokens_have_no_order_but_their_positions(kind: type[nn.Module]) -> None:
    layer, memory = kind(**SMALL), make_memory(padded=0)
    order = torch.randperm(7)
    moved = Memory(memory.tokens[:, order], memory.positions[:, order], memory.padding)
    torch.testing.assert_close(layer(moved), layer(memory)[:, order])


def test_positions_are_compared_not_read() -> None:
    """If all tokens are alike, what attention reads does not depend on where they are."""
    layer, memory = EncoderLayer(**SMALL), make_memory(padded=0)
    alike = replace(memory, tokens=memory.tokens[:, :1].expand(-1, 7, -1))
    elsewhere = replace(alike, positions=torch.randn(1, 7, 16))
    torch.testing.assert_close(layer(alike), layer(elsewhere))


def test_queries_do_not_see_padding() -> None:
    attention, memory = DenseAttention(channels=16, heads=2, dropout=0.0), make_memory()
    query, query_pos = torch.randn(1, 4, 16), torch.randn(1, 4, 16)
    whole, _ = attention(query, query_pos, None, memory)
    valid, _ = attention(query, query_pos, None, without_padding(memory))
    torch.testing.assert_close(whole, valid)


def test_spatial_memory_goes_row_by_row() -> None:
    features, positions = torch.rand(2, 16, 3, 4), torch.rand(2, 3, 4, 16)
    memory = spatial_memory(features, torch.zeros(2, 3, 4, dtype=torch.bool), positions)
    assert torch.equal(memory.tokens[:, 5], features[:, :, 1, 1])
    assert torch.equal(memory.positions[:, 5], positions[:, 1, 1])


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_transformer_gives_normalised_queries_of_every_layer(norm: str) -> None:
    config = TransformerConfig(
        **SMALL, encoder_layers=1, decoder_layers=3, num_queries=5, norm=norm
    )
    queries, memory = config.build()(make_memory())
    assert queries.shape == (3, 1, 5, 16) and memory.tokens.shape == (1, 7, 16)
    torch.testing.assert_close(queries.mean(-1), torch.zeros(3, 1, 5), atol=1e-5, rtol=0)
