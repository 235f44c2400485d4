from __future__ import annotations

import math

import pytest
import torch

from detr2d.positions import LearnedPositions, SinePositions, cell_positions, sine_embedding


def test_values_by_hand() -> None:
    waves = sine_embedding(torch.tensor([[0.25, 0.0]]), 4, temperature=100.0, scale=2 * math.pi)
    low = 2 * math.pi * 0.25 / 10  # second frequency: temperature ** -(2 / 4)
    expected = torch.tensor([[1.0, 0.0, math.sin(low), math.cos(low), 0.0, 1.0, 0.0, 1.0]])
    torch.testing.assert_close(waves, expected, atol=1e-6, rtol=0)


def test_shape_keeps_leading_axes() -> None:
    assert sine_embedding(torch.rand(2, 7, 3), 6, temperature=1e4, scale=1.0).shape == (2, 7, 18)


def padding(rows: int, columns: int, height: int = 5, width: int = 7) -> torch.Tensor:
    mask = torch.ones(1, height, width, dtype=torch.bool)
    mask[:, :rows, :columns] = False
    return mask


def test_cells_are_placed_among_the_valid_ones() -> None:
    places = cell_positions(padding(4, 2))[0, :4, :2]
    expected = torch.stack(
        torch.meshgrid(torch.arange(1, 5) / 4, torch.arange(1, 3) / 2, indexing="ij"), dim=-1
    )
    torch.testing.assert_close(places, expected)


@pytest.mark.parametrize("make", [SinePositions, LearnedPositions])
def test_more_padding_does_not_move_valid_cells(make: type[torch.nn.Module]) -> None:
    positions = make(16)
    small, large = positions(padding(4, 3, 4, 3)), positions(padding(4, 3, 9, 8))
    torch.testing.assert_close(large[:, :4, :3], small)


def test_an_image_that_is_all_padding_stays_finite() -> None:
    assert bool(torch.isfinite(SinePositions(16)(padding(0, 0))).all())


def test_the_first_half_is_the_row_for_sines_and_the_column_for_tables() -> None:
    nothing = padding(5, 7)
    sines, tables = SinePositions(16)(nothing), LearnedPositions(16)(nothing)
    assert torch.equal(sines[0, 2, :1, :8].expand(7, -1), sines[0, 2, :, :8])
    assert torch.equal(tables[0, :1, 2, :8].expand(5, -1), tables[0, :, 2, :8])


def test_maps_larger_than_the_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="up to 4 cells a side, got 5 × 7"):
        LearnedPositions(16, size=4)(padding(5, 7))


def test_sine_channels_must_divide_by_four() -> None:
    with pytest.raises(ValueError, match="divisible by 4, got 6"):
        SinePositions(6)
