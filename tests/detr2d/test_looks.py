from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from detr2d.attention import DenseAttention, Memory
from detr2d.config import SystemConfig
from detr2d.deformable import (
    DeformableAttention,
    DeformableConfig,
    MultiScaleMemory,
    PyramidTokens,
)
from detr2d.images import valid_pixels
from detr2d.looks import LookTrace, dense_looks
from detr2d.positions import SinePositions
from detr2d.structures import FeaturePyramid, ImageBatch
from detr2d.systems.deformable_detr import DeformableDETRConfig
from detr2d.systems.detr import DETRConfig
from detr2d.transformer import TransformerConfig
from tests.helpers.hiding import cells_read


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


def deformable() -> tuple[DeformableAttention, MultiScaleMemory]:
    """An attention that does not start with equal weights, and two images, one of them padded."""
    built = DeformableAttention(channels=16, heads=4, levels=2, points=3, dropout=0.0).eval()
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3)
    padding = ~valid_pixels(torch.tensor([[32.0, 48.0], [16.0, 40.0]]), 32, 48)
    maps = [torch.randn(2, 16, 8, 12), torch.randn(2, 16, 4, 6)]
    tokens = PyramidTokens(SinePositions(16), levels=2, channels=16)
    return built, tokens(FeaturePyramid(tuple(maps)), padding)


@pytest.mark.parametrize("size", [2, 4])
def test_deformable_looks_are_the_places_of_forward_on_the_canvas(size: int) -> None:
    attention, seen = deformable()
    query, reference = torch.randn(2, 3, 16), torch.rand(2, 3, size)
    looks = attention.looks(query, query, reference, seen)
    _, places = attention(query, query, reference, seen)
    ratios = seen.valid_ratios[:, :1, None]  # both levels of these images are cut alike
    torch.testing.assert_close(looks.places[:, 0], places * ratios)
    torch.testing.assert_close(looks.weights.sum((1, 3)), torch.ones(2, 3))
    assert looks.grid is None


def test_a_deformable_query_depends_on_the_shown_places_and_on_no_other() -> None:
    attention, seen = deformable()
    query, reference = torch.randn(2, 3, 16), 0.3 + 0.4 * torch.rand(2, 3, 2)
    looks = attention.looks(query, query, reference, seen).of_query(1)
    cells = cells_read(looks, seen.spatial_shapes)
    assert 0 < int(cells.sum()) < 100
    only, without = (replace(seen, tokens=seen.tokens * m[:, None]) for m in (cells, ~cells))
    attention.value.bias.data.zero_()  # a hidden token is to say nothing
    whole, kept, left = (
        attention(query, query, reference, m)[0][0, 1] for m in (seen, only, without)
    )
    torch.testing.assert_close(whole, kept)
    assert (whole - left).abs().max() > 1e-2


def test_deformable_encoders_are_not_among_the_layers_of_a_trace() -> None:
    transformer = DeformableConfig(
        channels=32, heads=2, hidden=32, encoder_layers=2, decoder_layers=3
    )
    model = DeformableDETRConfig(transformer=transformer, num_queries=5).build(("a",)).eval()
    with torch.inference_mode(), LookTrace(query=0).watching(model) as trace:
        model(image_batch())
    assert [looks.weights.shape for looks in trace.layers] == [(1, 1, 1, 2 * 4 * 4)] * 3


def test_a_model_that_cannot_tell_says_so() -> None:
    with (
        pytest.raises(ValueError, match="Linear cannot be explained"),
        LookTrace().watching(nn.Linear(2, 2)),
    ):
        pass
