"""Modulated deformable 3 x 3 convolution (DCNv2): the one function that everybody calls."""

from __future__ import annotations

from torch import Tensor

from detr2d.ops.deformable_convolution_cpu import convolve_columns
from detr2d.ops.deformable_convolution_torch import deform_plain
from detr2d.ops.triton_devices import HAS_TRITON, triton_serves

if HAS_TRITON:
    from detr2d.ops.deformable_convolution_triton import deformable_convolution


def convolve_deformed(
    features: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, stride: int
) -> Tensor:
    """Maps (N, C_out, H', W') of features (N, C, H, W), as ``torchvision.ops.deform_conv2d``.

    offsets (N, 18, H', W'): vertical and horizontal of each tap in pixels, row by row; weights
    (N, 9, H', W') of the taps; kernel (C_out, C, 3, 3). The padding is one. In the type of the
    features, bfloat16 too; offsets and weights are at least float32. Once differentiable.
    """
    if triton_serves(features, offsets):
        return deformable_convolution(features, offsets, weights, kernel, stride)
    if features.device.type == "cpu":
        return convolve_columns(features, offsets, weights, kernel, stride)
    return deform_plain(features, offsets, weights, kernel, stride)
