"""Modulated deformable 3 x 3 convolution (DCNv2), the definition: torchvision's kernel."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import deform_conv2d

from detr2d.structures import at_least_float32


def deform_plain(
    features: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, stride: int
) -> Tensor:
    """Shapes as in ``detr2d.ops.deformable_convolution``. In float32: it knows no bfloat16."""
    exact, matrix = at_least_float32(features), at_least_float32(kernel)
    found = deform_conv2d(exact, offsets, matrix, stride=stride, padding=1, mask=weights)
    return found.to(features.dtype)
