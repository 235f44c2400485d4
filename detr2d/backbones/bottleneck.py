"""The bottleneck of caffe-style residual networks, plain or with deformable convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from detr2d.backbones.deformable_conv import ModulatedDeformConv2d


class Convolution(Protocol):
    """Makes a 3 x 3 convolution of stride one without bias: ``make(channels, channels)``."""

    def __call__(self, in_channels: int, out_channels: int) -> nn.Module:
        """The convolution."""


def plain_convolution(in_channels: int, out_channels: int) -> nn.Module:
    """A 3 x 3 convolution of stride one, no bias."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


def deformable_convolution(in_channels: int, out_channels: int) -> nn.Module:
    """A modulated deformable 3 x 3 convolution of stride one, no bias."""
    return ModulatedDeformConv2d(in_channels, out_channels)


class CaffeBottleneck(nn.Module):
    """Residual bottleneck (He et al., CVPR 2016) whose stride sits on the first 1 x 1 convolution.

    That is the original, caffe layout; torchvision strides the 3 x 3 convolution instead. Names are
    torchvision's.
    """

    expansion = 4

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int = 1,
        shortcut: nn.Module | None = None,
        *,
        norm_layer: Callable[[int], nn.Module],
        spatial: Convolution = plain_convolution,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
        self.bn1 = norm_layer(width)
        self.conv2 = spatial(width, width)
        self.bn2 = norm_layer(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = norm_layer(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, 4 * width, H / stride, W / stride) of maps (N, channels, H, W)."""
        residual = self.relu(self.bn1(self.conv1(features)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        same = features if self.downsample is None else self.downsample(features)
        return self.relu(residual + same)
