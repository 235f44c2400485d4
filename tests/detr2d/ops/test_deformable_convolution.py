from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detr2d.ops import deformable_convolution_cpu
from detr2d.ops.deformable_convolution import convolve_deformed
from detr2d.ops.deformable_convolution_torch import deform_plain


def inputs(stride: int = 1, spread: float = 3.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, offsets that also leave the map, weights of taps and a kernel, in float64."""
    torch.manual_seed(0)
    features = torch.randn(2, 5, 9, 11, dtype=torch.float64)
    height, width = (9 + stride - 1) // stride, (11 + stride - 1) // stride
    offsets = torch.randn(2, 18, height, width, dtype=torch.float64) * spread
    weights = torch.rand(2, 9, height, width, dtype=torch.float64)
    return features, offsets, weights, torch.randn(6, 5, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0], ids=["in place", "near", "far outside"])
def test_it_is_its_definition_forward_and_backward(
    stride: int, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deformable_convolution_cpu, "CHUNK", 20)  # several, the last one not full
    leaves = [tensor.requires_grad_() for tensor in inputs(stride, spread)]
    found, expected = convolve_deformed(*leaves, stride), deform_plain(*leaves, stride)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    away = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(output, leaves, away) for output in (found, expected))
    inner = 2 if spread == 0 else 0  # taps on the border itself have a gradient on either side
    for kind, (mine, reference) in enumerate(zip(ours, theirs, strict=True)):
        if kind == 1 and inner:
            rows = slice(inner, -inner)
            mine, reference = mine[:, :, rows, rows], reference[:, :, rows, rows]
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-8)


def test_bfloat16_is_rounded_and_stays_bfloat16() -> None:
    features, offsets, weights, kernel = (tensor.float() for tensor in inputs())
    leaf = features.bfloat16().requires_grad_()
    found = convolve_deformed(leaf, offsets, weights, kernel, 1)
    expected = deform_plain(leaf, offsets, weights, kernel, 1)
    assert found.dtype == torch.bfloat16
    limit = 0.03 * float(expected.detach().float().std())
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.02, atol=limit)
    found.float().sum().backward()
    assert leaf.grad is not None and leaf.grad.dtype == torch.bfloat16


def test_maps_come_out_channels_last() -> None:
    found = convolve_deformed(*inputs(), 1)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_no_image_at_all_has_no_output_and_zero_gradients() -> None:
    features, offsets, weights, kernel = inputs()
    found = convolve_deformed(features[:0], offsets[:0], weights[:0], kernel.requires_grad_(), 1)
    found.sum().backward()
    assert found.shape == (0, 6, 9, 11)
    assert kernel.grad is not None and not bool(kernel.grad.any())
