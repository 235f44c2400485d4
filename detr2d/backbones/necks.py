"""Necks: from the backbone's stages to maps of one width."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork

from detr2d.structures import FeaturePyramid

NORM_GROUPS = 32


class StridedLevels(ExtraFPNBlock):
    """Coarser levels by stride-2 3 x 3 convolutions of the last output (mmdet: "on_output").

    The second and later ones see it behind a ReLU, as the released detectors' do.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(count)
        )

    def forward(
        self, results: list[Tensor], x: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        """Append the coarser maps to ``results`` and their names to ``names``."""
        for extra, conv in enumerate(self.convs):
            last = F.relu(results[-1]) if extra else results[-1]
            results = [*results, conv(last)]
            names = [*names, f"extra{len(names)}"]
        return results, names


class FPN(nn.Module):
    """Feature pyramid network (Lin et al., CVPR 2017) plus ``extra_levels`` coarser maps."""

    def __init__(self, in_channels: tuple[int, ...], channels: int, extra_levels: int = 0) -> None:
        super().__init__()
        extra = StridedLevels(channels, extra_levels) if extra_levels else None
        self.pyramid = FeaturePyramidNetwork(list(in_channels), channels, extra)
        self.num_levels = len(in_channels) + extra_levels

    def forward(self, features: FeaturePyramid) -> FeaturePyramid:
        """Maps (N, C, H_i, W_i) of one width C, finest first."""
        named = {str(level): feature for level, feature in enumerate(features)}
        return FeaturePyramid(tuple(self.pyramid(named).values()))


class CPFPN(nn.Module):
    """Feature pyramid with an output convolution on the finest level only (PETR, released code).

    Coarser levels are the bare lateral maps; of PETR's, only the finest is used.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(size, channels, 1) for size in in_channels)
        self.output = nn.Conv2d(channels, channels, 3, padding=1)
        self.num_levels = len(in_channels)
        for conv in (*self.laterals, self.output):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, features: FeaturePyramid) -> FeaturePyramid:
        """Maps (N, C, H_i, W_i) of one width C, finest first."""
        maps = [lateral(level) for lateral, level in zip(self.laterals, features, strict=True)]
        for finer in range(len(maps) - 2, -1, -1):
            upsampled = F.interpolate(maps[finer + 1], maps[finer].shape[-2:], mode="nearest")
            maps[finer] = maps[finer] + upsampled
        return FeaturePyramid((self.output(maps[0]), *maps[1:]))


class LevelProjections(nn.Module):
    """Every map to one width by a 1 x 1 convolution, plus coarser maps by strided ones.

    Deformable DETR, section 4.1 and appendix A.2: the first extra level is made of the backbone's
    last map, a further one of the extra level before it. Each is followed by group norm, on
    contiguous maps: of channels-last ones, torch computes it with twenty times the rounding.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int, extra_levels: int = 0) -> None:
        super().__init__()
        sources = (in_channels[-1], *[channels] * extra_levels)[:extra_levels]
        convs = [nn.Conv2d(source, channels, 1) for source in in_channels]
        convs += [nn.Conv2d(source, channels, 3, stride=2, padding=1) for source in sources]
        for conv in convs:
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        self.projections = nn.ModuleList(
            nn.Sequential(conv, nn.GroupNorm(NORM_GROUPS, channels)) for conv in convs
        )
        self.num_levels = len(convs)

    def forward(self, features: FeaturePyramid) -> FeaturePyramid:
        """Maps (N, C, H_i, W_i) of one width C, finest first."""
        plain, extra = self.projections[: len(features)], self.projections[len(features) :]
        maps = [_project(level, part) for part, level in zip(plain, features, strict=True)]
        source = features.maps[-1]
        for part in extra:
            source = _project(source, part)
            maps.append(source)
        return FeaturePyramid(tuple(maps))


def build_neck(
    kind: Literal["projections", "fpn"],
    in_channels: tuple[int, ...],
    channels: int,
    extra_levels: int,
) -> LevelProjections | FPN:
    """The neck that a setting names: each map on its own, or mixed from coarse to fine."""
    neck = LevelProjections if kind == "projections" else FPN
    return neck(in_channels, channels, extra_levels)


def _project(level: Tensor, part: nn.Module) -> Tensor:
    conv, norm = part.children()
    return norm(conv(level).contiguous())
