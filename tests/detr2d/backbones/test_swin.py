from __future__ import annotations

import pytest
import torch

from detr2d.backbones.swin import (
    HIDDEN,
    SwinBlock,
    SwinConfig,
    from_windows,
    relative_index,
    shifted_mask,
    to_windows,
)

SMALL = SwinConfig(channels=8, depths=(2, 2, 2), heads=(1, 2, 4), window=4, out_stages=(2, 3))


@pytest.mark.parametrize(
    "size, sizes", [((64, 96), [(8, 12), (4, 6)]), ((61, 90), [(8, 12), (4, 6)])]
)
def test_maps_have_half_the_size_each_stage_rounded_up(size, sizes) -> None:
    backbone = SMALL.build()
    found = backbone(torch.randn(2, 3, *size))
    assert [tuple(level.shape[-2:]) for level in found] == sizes
    assert tuple(level.shape[1] for level in found) == backbone.out_channels == (16, 32)


def test_large_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        backbone = SwinConfig().build()
    count = sum(p.numel() for n, p in backbone.named_parameters() if not n.startswith("norm"))
    classifier = 1000 * 1537 + 2 * 1536
    assert round((count + classifier) / 1e6) == 197  # Liu et al., table 1


def test_windows_and_back() -> None:
    features = torch.randn(2, 8, 12, 3)
    windows = to_windows(features, 4)
    assert windows.shape == (12, 16, 3)
    torch.testing.assert_close(windows[1, 0], features[0, 0, 4])
    torch.testing.assert_close(from_windows(windows, 4, features.shape), features)


def test_relative_index_tells_steps_apart() -> None:
    index = relative_index(3)
    assert index.shape == (9, 9) and len(index.unique()) == 25
    assert bool((index.diagonal() == 12).all())
    assert int(index[0, 1]) == int(index[4, 5]) != int(index[1, 0])


def test_strangers_are_hidden_in_shifted_windows_only() -> None:
    mask = shifted_mask(torch.zeros(1, 8, 8, 1), 4)
    assert mask.shape == (4, 16, 16)
    assert not bool(mask[0].any())
    assert set(mask[1].unique().tolist()) == {HIDDEN, 0.0}
    assert len({tuple(row) for row in mask[3].tolist()}) == 4  # four strangers meet in the corner


@pytest.mark.parametrize("shift", [0, 2])
def test_blocks_treat_images_alone_and_crop_what_they_pad(shift: int) -> None:
    block = SwinBlock(8, 2, 4, shift=shift, drop_path=0.0)
    features = torch.randn(2, 7, 9, 8)
    hidden = shifted_mask(features, 4)
    together = block(features, hidden)
    assert together.shape == features.shape
    torch.testing.assert_close(together[1:], block(features[1:], hidden))


def test_a_shifted_block_looks_across_windows_but_not_around_the_edge() -> None:
    torch.manual_seed(0)
    block = SwinBlock(8, 2, 4, shift=2, drop_path=0.0)
    features = torch.randn(1, 8, 8, 8)
    hidden = shifted_mask(features, 4)
    changed = features.clone()
    changed[0, 0, 0, 0] += 3
    moved = (block(changed, hidden) - block(features, hidden)).abs().sum(-1)[0] > 1e-6
    assert bool(moved[:2, :2].all()) and not bool(moved[2:].any() or moved[:, 2:].any())
