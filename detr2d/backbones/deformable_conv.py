"""Deformable convolution with modulation (DCNv2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detr2d.ops.deformable_convolution import convolve_deformed
from detr2d.structures import at_least_float32


class ModulatedDeformConv2d(nn.Module):
    """3 x 3 convolution whose taps are moved and weighed by a second one (Zhu et al., CVPR 2019).

    ``conv_offset`` gives, per output pixel, 18 offsets in pixels (vertical, horizontal of each tap,
    row by row) and 9 weights before the sigmoid. It starts at zero: all taps in place, half weight.
    No bias.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.conv_offset = nn.Conv2d(in_channels, 27, 3, stride=stride, padding=1)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.start_in_place()

    def start_in_place(self) -> None:
        """Give all taps offset zero and weight one half."""
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, C_out, H / stride, W / stride) of maps (N, C_in, H, W), in their type."""
        return deform(features, self.conv_offset(features), self.weight, self.stride)

    def with_norm(self, scale: Tensor, shift: Tensor) -> NormedDeformConv2d:
        """The same times ``scale`` (C_out,) plus ``shift`` (C_out,) and a ReLU, for inference."""
        return NormedDeformConv2d(self, scale, shift)


class NormedDeformConv2d(nn.Module):
    """A ``ModulatedDeformConv2d`` with the fixed norm that followed it and a ReLU; no gradients."""

    weight: Tensor
    bias: Tensor

    def __init__(self, plain: ModulatedDeformConv2d, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.stride, self.conv_offset = plain.stride, plain.conv_offset
        weight = plain.weight.detach().to(scale) * scale.view(-1, 1, 1, 1)
        self.register_buffer("weight", weight.to(plain.weight))
        self.register_buffer("bias", shift.detach().to(plain.weight).view(-1, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, C_out, H / stride, W / stride) of maps (N, C_in, H, W), in their type."""
        found = deform(features, self.conv_offset(features), self.weight, self.stride)
        return found.add_(self.bias).relu_()


def deform(features: Tensor, moves: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Deformable convolution of features (N, C, H, W), in their type, with a kernel (C', C, 3, 3).

    moves (N, 27, H', W'): offsets and weights before the sigmoid, see ``ModulatedDeformConv2d``.
    """
    offsets, weights = at_least_float32(moves).split((18, 9), dim=1)
    with torch.autocast(features.device.type, enabled=False):
        return convolve_deformed(features, offsets, weights.sigmoid(), kernel, stride)
