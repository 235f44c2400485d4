"""Deformable convolution with modulation (DCNv2), on torchvision's kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

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
        """Maps (N, C_out, H / stride, W / stride) of maps (N, C_in, H, W), in their type.

        At least float32 inside: the kernel knows no bfloat16.
        """
        offsets, weights = at_least_float32(self.conv_offset(features)).split((18, 9), dim=1)
        with torch.autocast(features.device.type, enabled=False):
            found = deform_conv2d(
                at_least_float32(features),
                offsets,
                at_least_float32(self.weight),
                stride=self.stride,
                padding=1,
                mask=weights.sigmoid(),
            )
        return found.to(features.dtype)
