from __future__ import annotations

import torch

from detr2d.backbones.necks import LevelProjections
from detr2d.structures import FeaturePyramid


def test_projections_of_channels_last_maps_round_as_little_as_others() -> None:
    """Means of 10,000 cells: torch's norm of channels-last maps was off by 2e-6 here."""
    neck = LevelProjections((8,), 64)
    level = torch.randn(1, 8, 100, 100) + 1
    exact = neck.double()(FeaturePyramid((level.double(),))).maps[0]
    level = level.contiguous(memory_format=torch.channels_last)
    rounded = neck.float()(FeaturePyramid((level,))).maps[0]
    assert (rounded - exact).square().mean().sqrt() < 3e-7


def test_further_levels_are_made_of_the_last_one() -> None:
    neck = LevelProjections((8, 16), 32, extra_levels=2)
    pyramid = FeaturePyramid((torch.randn(1, 8, 20, 30), torch.randn(1, 16, 10, 15)))
    sizes = [tuple(level.shape) for level in neck(pyramid)]
    assert sizes == [(1, 32, 20, 30), (1, 32, 10, 15), (1, 32, 5, 8), (1, 32, 3, 4)]
