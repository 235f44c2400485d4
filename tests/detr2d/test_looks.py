from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from detr2d.attention import DenseAttention, Memory
from detr2d.config import SystemConfig
from detr2d.looks import Looks, LookTrace, dense_looks
from detr2d.structures import ImageBatch
from detr2d.systems.detr import DETRConfig
from detr2d.transformer import TransformerConfig


def small_detr() -> SystemConfig:
    transformer = TransformerConfig(
        channels=32, heads=2, hidden=32, encoder_layers=1, decoder_layers=2, num_queries=5
    )
    return DETRConfig(transformer=transformer)


def image_batch() -> ImageBatch:
    sizes = torch.tensor([[64.0, 96.0]])
    return ImageBatch(torch.randint(0, 255, (1, 3, 64, 96)).byte(), sizes, ("a",), sizes)


def memory(tokens: int = 6) -> Memory:
    padding = torch.zeros(2, tokens, dtype=torch.bool)
    padding[:, -1] = True
    return Memory(torch.randn(2, tokens, 16), torch.randn(2, tokens, 16), padding, (2, 3))


def test_dense_weights_become_cells_of_views_row_by_row() -> None:
    weights = torch.arange(12.0).view(1, 1, 12)
    looks = dense_looks(weights, (2, 2, 3))
    assert looks.places.shape == (1, 2, 1, 6, 2)
    assert looks.weights[0, 1, 0].tolist() == [6, 7, 8, 9, 10, 11]
    expected = torch.tensor([[1 / 6, 0.25], [0.5, 0.25], [5 / 6, 0.25]])
    torch.testing.assert_close(looks.places[0, 0, 0, :3], expected)


def test_dense_looks_sum_to_one_and_leave_padding_out() -> None:
    attention = DenseAttention(channels=16, heads=4).eval()
    query = torch.randn(2, 3, 16)
    looks = attention.looks(query, torch.zeros_like(query), None, memory())
    torch.testing.assert_close(looks.weights.sum((1, 3)), torch.ones(2, 3))
    assert (looks.weights[..., -1] == 0).all()
    assert looks.grid == (2, 3)


def test_dense_looks_are_the_weights_that_forward_uses() -> None:
    attention = DenseAttention(channels=16, heads=1).eval()
    query, seen = torch.randn(2, 3, 16), memory()
    looks = attention.looks(query, torch.zeros_like(query), None, seen)
    inner = attention.attention
    value = nn.functional.linear(seen.tokens, inner.in_proj_weight[32:], inner.in_proj_bias[32:])
    expected = inner.out_proj(looks.weights[:, 0] @ value)
    update, _ = attention(query, torch.zeros_like(query), None, seen)
    torch.testing.assert_close(update, expected)


def test_a_trace_has_a_look_for_every_layer_and_leaves_nothing_behind() -> None:
    model = small_detr().build(("a", "b")).eval()
    batch = image_batch()
    with torch.inference_mode():
        before = model(batch)
        with LookTrace(query=3).watching(model) as trace:
            during = model(batch)
        model(batch)
    assert torch.equal(before.codes, during.codes)
    assert [looks.weights.shape for looks in trace.layers] == [(1, 1, 1, 6)] * 2
    assert all(looks.grid == (2, 3) for looks in trace.layers)


def test_a_trace_of_one_query_is_that_of_all() -> None:
    model, batch = small_detr().build(("a",)).eval(), image_batch()
    traces = [LookTrace(), LookTrace(query=2)]
    for trace in traces:
        with torch.inference_mode(), trace.watching(model):
            model(batch)
    torch.testing.assert_close(traces[0].layers[1].of_query(2), traces[1].layers[1])


def hide(model: nn.Module, shown: Looks) -> torch.Tensor:
    """Boxes when tokens at the places of a layer's looks carry nothing."""
    hidden = shown.weights[0, 0, 0] >= shown.weights[0, 0, 0].sort().values[-3]

    def zero(_: nn.Module, arguments: tuple) -> tuple:
        *others, seen = arguments
        return (*others, replace(seen, tokens=seen.tokens.masked_fill(hidden[:, None], 0)))

    handles = [m.register_forward_pre_hook(zero) for m in model.modules() if hasattr(m, "looks")]
    codes = model(image_batch()).codes
    for handle in handles:
        handle.remove()
    return codes


def test_hiding_the_places_that_are_shown_moves_the_box() -> None:
    model = small_detr().build(("a",)).eval()
    with torch.inference_mode():
        torch.manual_seed(1)
        batch = image_batch()
        with LookTrace(query=0).watching(model) as trace:
            codes = model(batch).codes
        torch.manual_seed(1)
        moved = hide(model, trace.layers[-1])
    assert (codes[-1, 0, 0] - moved[-1, 0, 0]).abs().max() > 1e-4


def test_a_model_that_cannot_tell_says_so() -> None:
    with (
        pytest.raises(ValueError, match="Linear cannot be explained"),
        LookTrace().watching(nn.Linear(2, 2)),
    ):
        pass
