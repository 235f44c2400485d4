from __future__ import annotations

import math

import torch

from detr2d.positions import sine_embedding


def test_values_by_hand() -> None:
    waves = sine_embedding(torch.tensor([[0.25, 0.0]]), 4, temperature=100.0, scale=2 * math.pi)
    low = 2 * math.pi * 0.25 / 10  # second frequency: temperature ** -(2 / 4)
    expected = torch.tensor([[1.0, 0.0, math.sin(low), math.cos(low), 0.0, 1.0, 0.0, 1.0]])
    torch.testing.assert_close(waves, expected, atol=1e-6, rtol=0)


def test_shape_keeps_leading_axes() -> None:
    assert sine_embedding(torch.rand(2, 7, 3), 6, temperature=1e4, scale=1.0).shape == (2, 7, 18)
