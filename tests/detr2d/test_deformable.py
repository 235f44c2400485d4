from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detr2d.deformable import (
    DeformableAttention,
    DeformableEncoderLayer,
    MultiScaleMemory,
    PyramidTokens,
    cell_centres,
    offset_rings,
    valid_ratio,
)
from detr2d.images import valid_pixels
from detr2d.positions import SinePositions
from detr2d.structures import FeaturePyramid

SHAPES = ((8, 12), (4, 6))


def tokens() -> PyramidTokens:
    built = PyramidTokens(SinePositions(16), levels=2, channels=16)
    nn.init.zeros_(built.level_embedding)
    return built


def memory(sizes: list[list[float]], noise: float = 0.0) -> MultiScaleMemory:
    """Two levels of a canvas of 32 x 48 pixels; noise in what is padded."""
    generator = torch.Generator().manual_seed(1)
    padding = ~valid_pixels(torch.tensor(sizes), 32, 48)
    maps = [torch.randn(len(sizes), 16, *shape, generator=generator) for shape in SHAPES]
    built = tokens()(FeaturePyramid(tuple(maps)), padding)
    spoil = noise * built.padding.unsqueeze(-1)
    return MultiScaleMemory(**{**vars(built), "tokens": built.tokens + spoil})


def attention(points: int = 2) -> DeformableAttention:
    built = DeformableAttention(channels=16, heads=4, levels=2, points=points, dropout=0.0)
    nn.init.normal_(built.offsets.weight, std=0.1)
    return built


def test_first_offsets_are_square_rings_in_all_directions() -> None:
    rings = offset_rings(8, 4)
    torch.testing.assert_close(rings.abs().amax(-1), torch.arange(1.0, 5.0).expand(8, -1))
    torch.testing.assert_close(rings[0], torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]))
    torch.testing.assert_close(rings[1, 0], torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(rings.sum(0), torch.zeros(4, 2), atol=1e-5, rtol=0)


def test_attention_starts_on_the_rings_with_equal_weights() -> None:
    built = DeformableAttention(channels=16, heads=4, levels=2, points=3)
    bias = built.offsets.bias.detach().view(4, 2, 3, 2)
    torch.testing.assert_close(bias, offset_rings(4, 3).unsqueeze(1).expand(-1, 2, -1, -1))
    assert not bool(built.offsets.weight.any() or built.weights.weight.any())
    assert not bool(built.weights.bias.any() or built.output.bias.any())


def test_valid_ratio_is_the_share_of_columns_and_rows() -> None:
    padding = ~valid_pixels(torch.tensor([[3.0, 4.0], [4.0, 2.0]]), 4, 8)
    assert valid_ratio(padding).tolist() == [[0.5, 0.75], [0.25, 1.0]]


def test_cells_are_counted_in_the_valid_area() -> None:
    centres = cell_centres(((1, 2), (1, 1)), torch.tensor([[[1.0, 1.0], [1.0, 1.0]]]))
    torch.testing.assert_close(centres, torch.tensor([[[0.5, 0.5], [1.5, 0.5], [0.5, 0.5]]]))


def test_padding_is_not_looked_at() -> None:
    sizes = [[32.0, 48.0], [16.0, 40.0]]
    layer = DeformableEncoderLayer(attention(), channels=16, hidden=32, dropout=0.0)
    clean, spoiled = layer(memory(sizes)), layer(memory(sizes, noise=100.0))
    valid = ~memory(sizes).padding
    torch.testing.assert_close(clean[valid], spoiled[valid])


def test_points_and_boxes_move_the_places() -> None:
    looked = memory([[32.0, 48.0]])
    query = torch.zeros(1, 1, 16)
    built = attention(points=2)
    _, around = built(query, query, torch.tensor([[[0.5, 0.5]]]), looked)
    first = around.view(4, 2, 2, 2)  # heads, levels, points
    torch.testing.assert_close(first[0, 0, 0], torch.tensor([0.5 + 1 / 12, 0.5]))
    torch.testing.assert_close(first[0, 1, 1], torch.tensor([0.5 + 2 / 6, 0.5]))
    _, inside = built(query, query, torch.tensor([[[0.5, 0.5, 0.4, 0.2]]]), looked)
    second = inside.view(4, 2, 2, 2)
    torch.testing.assert_close(second[0, 0, 0], torch.tensor([0.5 + 0.1, 0.5]))
    torch.testing.assert_close(second[1, 1, 1], torch.tensor([0.5, 0.5 + 0.1]))


def test_an_image_means_the_same_on_a_larger_canvas() -> None:
    """References count in the valid area, so padding by whole cells changes nothing."""
    built = attention()
    small = memory([[16.0, 24.0]])
    maps = [
        small.tokens[:, first : first + height * width]
        .transpose(1, 2)
        .unflatten(2, (height, width))
        for first, (height, width) in zip((0, SHAPES[0][0] * SHAPES[0][1]), SHAPES, strict=True)
    ]
    cropped = [
        level[..., : height // 2, : width // 2]
        for level, (height, width) in zip(maps, SHAPES, strict=True)
    ]
    alone = tokens()(FeaturePyramid(tuple(cropped)), torch.zeros(1, 16, 24, dtype=torch.bool))
    query, reference = torch.randn(1, 5, 16), torch.rand(1, 5, 4)
    torch.testing.assert_close(
        built(query, query, reference, small)[0], built(query, query, reference, alone)[0]
    )


def test_half_precision_keeps_places_in_float32() -> None:
    looked, query = memory([[32.0, 48.0]]), torch.randn(1, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        update, places = attention()(query, query, torch.rand(1, 5, 2), looked)
    assert update.dtype == torch.bfloat16 and places.dtype == torch.float32


def test_heads_have_to_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="16 channels cannot be divided among 3 heads"):
        DeformableAttention(channels=16, heads=3)


def test_compiles_into_one_graph() -> None:
    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention()

        def forward(self, query: Tensor, reference: Tensor, tokens: Tensor) -> Tensor:
            looked = memory_of(tokens)
            return self.attention(query, query, reference, looked)[0]

    base = memory([[32.0, 48.0]])

    def memory_of(tokens: Tensor) -> MultiScaleMemory:
        return MultiScaleMemory(
            tokens, base.positions, base.padding, base.cells, SHAPES, base.valid_ratios
        )

    look = Look()
    arguments = (torch.randn(1, 3, 16), torch.rand(1, 3, 2), base.tokens)
    compiled = torch.compile(look, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), look(*arguments))
