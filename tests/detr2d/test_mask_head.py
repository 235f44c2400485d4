from __future__ import annotations

import pytest
import torch

from detr2d.attention import Memory
from detr2d.mask_head import AttentionMaps, MaskHead


def test_attention_sums_to_one_over_heads_and_tokens_and_leaves_out_padding() -> None:
    padding = torch.tensor([[False, False, True, False, True]])
    memory = Memory(torch.randn(1, 5, 16), torch.zeros(1, 5, 16), padding)
    weights = AttentionMaps(16, heads=4)(torch.randn(1, 3, 16), memory)
    assert weights.shape == (1, 3, 4, 5)
    torch.testing.assert_close(weights.sum((2, 3)), torch.ones(1, 3))
    assert float(weights[..., padding[0]].abs().max().detach()) == 0


def test_the_shared_first_convolution_equals_that_of_the_joined_maps() -> None:
    head = MaskHead(16, 4, (12, 8, 6))
    features, attention = torch.randn(2, 16, 3, 5), torch.randn(2, 7, 4, 3, 5)
    joined = torch.cat([features.unsqueeze(1).expand(-1, 7, -1, -1, -1), attention], dim=2)
    torch.testing.assert_close(
        head._start(features, attention), head.first(joined.flatten(0, 1)), atol=1e-5, rtol=1e-5
    )


def test_masks_have_the_size_of_the_finest_map_and_each_query_its_own() -> None:
    head = MaskHead(32, 4, (12, 8, 6))
    features, attention = torch.randn(2, 32, 3, 5), torch.rand(2, 7, 4, 3, 5)
    finer = [torch.randn(2, 12, 5, 9), torch.randn(2, 8, 10, 18), torch.randn(2, 6, 20, 36)]
    masks = head(features, attention, finer)
    assert masks.shape == (2, 7, 20, 36)
    order = torch.randperm(7)
    torch.testing.assert_close(head(features, attention[:, order], finer), masks[:, order])


def test_three_finer_maps_are_needed() -> None:
    with pytest.raises(ValueError, match="3 finer maps, got 2"):
        MaskHead(16, 4, (12, 8))
