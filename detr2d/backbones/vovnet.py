"""VoVNet-V2: one-shot aggregation blocks with effective squeeze-and-excitation.

Lee and Park, CenterMask, CVPR 2020, section 2.2 and table 2. A block runs its 3 x 3 convolutions
one after the other and aggregates the outputs of all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr2d.backbones.batch_norm import FixedStatisticsNorm, convolve_norm
from detr2d.backbones.folded import FoldedConvolution, fold_convolution
from detr2d.structures import FeaturePyramid

NormLayer = Callable[[int], nn.Module]


class ConvNorm(nn.Module):
    """Convolution without bias, norm, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, size: int, norm: NormLayer, *, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, size, stride=stride, padding=size // 2, bias=False
        )
        self.norm = norm(out_channels)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, C_out, H / stride, W / stride) of maps (N, C_in, H, W)."""
        return convolve_norm(self.conv, self.norm, features)

    def folded(self) -> FoldedConvolution:
        """The same for inference, without a norm."""
        return fold_convolution(self.conv, self.norm, relu=True)


class ChannelGate(nn.Module):
    """Scale each channel by a hard sigmoid of a linear map of all channels' means (eSE, eq. 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Gated maps (N, C, H, W)."""
        return features * F.hardsigmoid(self.fc(features.mean((2, 3), keepdim=True)))


class AggregationBlock(nn.Module):
    """One-shot aggregation: ``depth`` convolutions in a row, all outputs joined by a 1 x 1 one.

    With ``residual`` the input is added behind the gate; it then needs as many channels as the
    output.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        depth: int,
        norm: NormLayer,
        *,
        residual: bool,
    ) -> None:
        super().__init__()
        self.residual = residual
        inputs = [in_channels, *(width for _ in range(depth - 1))]
        self.layers = nn.ModuleList(ConvNorm(channels, width, 3, norm) for channels in inputs)
        self.join = ConvNorm(in_channels + depth * width, out_channels, 1, norm)
        self.gate = ChannelGate(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, C_out, H, W) of maps (N, C_in, H, W)."""
        outputs = [features]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        gated = self.gate(self.join(torch.cat(outputs, dim=1)))
        return gated + features if self.residual else gated


class VoVNet(nn.Module):
    """VoVNet-V2 that returns the outputs of chosen stages, at strides 4, 8, 16, 32.

    ``widths``, ``channels`` and ``repeats``: inner width, output channels and blocks of the four
    stages; ``depth`` convolutions a block. Blocks after the first of a stage are residual.
    ``out_stages`` counts from 1 as in ``ResNet`` (the paper counts the stem as stage 1).
    """

    def __init__(
        self,
        *,
        widths: tuple[int, int, int, int] = (128, 160, 192, 224),
        channels: tuple[int, int, int, int] = (256, 512, 768, 1024),
        repeats: tuple[int, int, int, int] = (1, 3, 9, 3),
        depth: int = 5,
        stem: int = 64,
        out_stages: tuple[int, ...] = (1, 2, 3, 4),
        norm: NormLayer = FixedStatisticsNorm,
    ) -> None:
        super().__init__()
        self.out_stages = tuple(out_stages)
        self.out_channels = tuple(channels[stage - 1] for stage in out_stages)
        self.stem = nn.Sequential(
            ConvNorm(3, stem, 3, norm, stride=2),
            ConvNorm(stem, stem, 3, norm),
            ConvNorm(stem, 2 * stem, 3, norm, stride=2),
        )
        incoming = (2 * stem, *channels[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    AggregationBlock(
                        before if block == 0 else after,
                        width,
                        after,
                        depth,
                        norm,
                        residual=block > 0,
                    )
                    for block in range(repeat)
                )
            )
            for before, width, after, repeat in zip(
                incoming, widths, channels, repeats, strict=True
            )
        )
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)

    def forward(self, images: Tensor) -> FeaturePyramid:
        """Features (N, C_s, H / stride, W / stride) of the chosen stages of images (N, 3, H, W)."""
        features = self.stem(images)
        outputs = []
        for stage in range(1, max(self.out_stages) + 1):
            if stage > 1:  # the stem has brought stage 1 to stride 4 already
                features = self.pool(features)
            features = self.stages[stage - 1](features)
            if stage in self.out_stages:
                outputs.append(features)
        return FeaturePyramid(tuple(outputs))


@dataclass(frozen=True, kw_only=True)
class VoVNetConfig:
    """Settings of a ``VoVNet`` with fixed statistics; the defaults are V-99-eSE."""

    widths: tuple[int, int, int, int] = (128, 160, 192, 224)
    """Inner widths of the four stages."""
    channels: tuple[int, int, int, int] = (256, 512, 768, 1024)
    """Output channels of the four stages."""
    repeats: tuple[int, int, int, int] = (1, 3, 9, 3)
    """Blocks of the four stages."""
    depth: int = 5
    """Convolutions of a block."""
    stem: int = 64
    """Width of the first two convolutions."""
    out_stages: tuple[int, ...] = (3, 4)
    """Stages that are handed on, from 1 (stride 4) to 4 (stride 32)."""
    frozen_stages: int = 0
    """Leave the stem and the first so many stages untrained; 0 freezes nothing."""

    def build(self) -> VoVNet:
        """Build the backbone with random weights."""
        if not 0 <= self.frozen_stages <= 4:
            raise ValueError(f"frozen_stages must lie in 0..4, got {self.frozen_stages}")
        backbone = VoVNet(
            widths=self.widths,
            channels=self.channels,
            repeats=self.repeats,
            depth=self.depth,
            stem=self.stem,
            out_stages=self.out_stages,
        )
        frozen = (backbone.stem, *backbone.stages[: self.frozen_stages])
        for part in frozen if self.frozen_stages else ():
            part.requires_grad_(False)
        return backbone
