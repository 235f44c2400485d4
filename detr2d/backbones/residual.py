"""Residual blocks with torchvision's names: basic, bottlenecks in its layout and in caffe's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

from detr2d.backbones.batch_norm import convolve_norm
from detr2d.backbones.deformable_conv import ModulatedDeformConv2d

EXPANSION = 4  # of a bottleneck's width
NormLayer = Callable[[int], nn.Module]


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


class ResidualBlock(nn.Module):
    """Convolutions with norms and ReLUs, the last of which adds the input (He et al., CVPR 2016).

    They are called conv1, bn1, conv2 ... ``shortcut`` (a convolution and a norm) projects the input
    where its shape changes.
    """

    def __init__(
        self,
        convolutions: Sequence[tuple[nn.Module, int]],
        shortcut: nn.Module | None,
        norm: NormLayer,
    ) -> None:
        super().__init__()
        self.depth = len(convolutions)
        for number, (convolution, channels) in enumerate(convolutions, start=1):
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", norm(channels))
        self.downsample = shortcut

    def steps(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Convolutions with their norms, in order."""
        for number in range(1, self.depth + 1):
            yield self.get_submodule(f"conv{number}"), self.get_submodule(f"bn{number}")

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, C', H / stride, W / stride) of maps (N, C, H, W)."""
        added = features
        if self.downsample is not None:
            convolution, norm = self.downsample.children()
            added = convolve_norm(convolution, norm, features, relu=False)
        *first, last = self.steps()
        for convolution, norm in first:
            features = convolve_norm(convolution, norm, features)
        return convolve_norm(*last, features, added)


def basic_block(
    channels: int, width: int, stride: int, shortcut: nn.Module | None, norm: NormLayer
) -> ResidualBlock:
    """Two 3 x 3 convolutions, the first with the stride."""
    first = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return ResidualBlock(((first, width), (plain_convolution(width, width), width)), shortcut, norm)


def bottleneck(
    channels: int,
    width: int,
    stride: int,
    shortcut: nn.Module | None,
    norm: NormLayer,
    *,
    dilation: int = 1,
) -> ResidualBlock:
    """1 x 1, 3 x 3 with stride and dilation, and 1 x 1 to four times the width: torchvision's."""
    convolutions = (
        (nn.Conv2d(channels, width, 1, bias=False), width),
        (
            nn.Conv2d(
                width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
            ),
            width,
        ),
        (nn.Conv2d(width, width * EXPANSION, 1, bias=False), width * EXPANSION),
    )
    return ResidualBlock(convolutions, shortcut, norm)


def caffe_bottleneck(
    channels: int,
    width: int,
    stride: int,
    shortcut: nn.Module | None,
    norm: NormLayer,
    *,
    spatial: Convolution = plain_convolution,
) -> ResidualBlock:
    """The original, caffe layout: the stride sits on the first 1 x 1 convolution."""
    convolutions = (
        (nn.Conv2d(channels, width, 1, stride=stride, bias=False), width),
        (spatial(width, width), width),
        (nn.Conv2d(width, width * EXPANSION, 1, bias=False), width * EXPANSION),
    )
    return ResidualBlock(convolutions, shortcut, norm)
