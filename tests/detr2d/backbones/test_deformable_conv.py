from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from detr2d.backbones.deformable_conv import ModulatedDeformConv2d


def test_with_zero_offsets_it_is_half_a_plain_convolution() -> None:
    conv = ModulatedDeformConv2d(4, 6, stride=2)
    images = torch.randn(2, 4, 9, 11)
    plain = F.conv2d(images, conv.weight, stride=2, padding=1)
    torch.testing.assert_close(conv(images), 0.5 * plain, atol=1e-5, rtol=1e-5)


def test_an_offset_moves_the_taps_by_pixels() -> None:
    conv = ModulatedDeformConv2d(1, 1)
    with torch.no_grad():
        conv.conv_offset.bias[:18:2] = 1.0  # down
        conv.conv_offset.bias[1:18:2] = 2.0  # right
        conv.conv_offset.bias[18:] = 50.0  # full weight
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0, 4, 5] = 1.0
    plain = F.conv2d(images, conv.weight, padding=1)
    moved = torch.roll(plain, (-1, -2), (2, 3))
    torch.testing.assert_close(conv(images), moved)


def test_gradients_reach_offsets_and_weights() -> None:
    conv = ModulatedDeformConv2d(3, 3)
    torch.nn.init.normal_(conv.conv_offset.bias)
    conv(torch.randn(1, 3, 6, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in conv.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_type_and_the_result(dtype: torch.dtype) -> None:
    conv, images = ModulatedDeformConv2d(4, 6), torch.randn(2, 4, 9, 11)
    torch.nn.init.normal_(conv.conv_offset.bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(images.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), conv(images), atol=0.2, rtol=0.1)
    found.float().sum().backward()
    assert conv.weight.grad is not None


def test_double_precision_stays_double() -> None:
    conv = ModulatedDeformConv2d(4, 6).double()
    assert conv(torch.randn(1, 4, 5, 5).double()).dtype == torch.float64
