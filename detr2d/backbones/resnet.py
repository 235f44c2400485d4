"""Residual networks with torchvision's key names, any depth and width, in its or caffe's layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from detr2d.backbones.batch_norm import BatchNorm2d, FrozenBatchNorm2d, convolve_norm
from detr2d.backbones.deformable_conv import ModulatedDeformConv2d
from detr2d.backbones.folded import FoldedResNet, fold_resnet
from detr2d.backbones.residual import (
    EXPANSION,
    NormLayer,
    basic_block,
    bottleneck,
    caffe_bottleneck,
    deformable_convolution,
    plain_convolution,
)
from detr2d.structures import FeaturePyramid

Block = Callable[..., nn.Module]

BLOCKS: dict[int, tuple[Block, tuple[int, int, int, int]]] = {
    10: (basic_block, (1, 1, 1, 1)),
    18: (basic_block, (2, 2, 2, 2)),
    34: (basic_block, (3, 4, 6, 3)),
    50: (bottleneck, (3, 4, 6, 3)),
    101: (bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """ResNet (He et al., CVPR 2016) that returns the outputs of chosen stages.

    ``widths`` are the base widths of the four stages at strides 4, 8, 16, 32 (64, 128, 256, 512 in
    the paper); with bottleneck blocks the outputs have four times as many channels. ``layout`` puts
    the stride of a bottleneck on the 3 x 3 (torchvision) or the first 1 x 1 convolution (caffe).
    ``out_stages`` counts from 1. ``dilate_last`` gives the last stage stride 16 and dilation 2
    (DC5; torchvision's bottlenecks only); ``deformable_stages`` have deformable 3 x 3 convolutions
    (DCNv2; caffe's only).
    """

    def __init__(
        self,
        depth: int,
        *,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        out_stages: tuple[int, ...] = (1, 2, 3, 4),
        norm: NormLayer = FrozenBatchNorm2d,
        dilate_last: bool = False,
        layout: Literal["torchvision", "caffe"] = "torchvision",
        deformable_stages: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"ResNet depth must be one of {sorted(BLOCKS)}, got {depth}")
        block, repeats = BLOCKS[depth]
        basic = block is basic_block
        expansion = 1 if basic else EXPANSION
        if dilate_last and basic:
            raise ValueError(f"ResNet-{depth} cannot be dilated: it has no bottleneck blocks")
        if layout == "caffe" and (basic or dilate_last):
            raise ValueError("the caffe layout is for undilated bottlenecks (depth 50 or 101)")
        if deformable_stages and layout != "caffe":
            raise ValueError(f"deformable stages {deformable_stages} need the caffe layout")
        self.out_stages = tuple(out_stages)
        self.out_channels = tuple(widths[stage - 1] * expansion for stage in out_stages)
        self.conv1 = nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(widths[0])
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = widths[0]
        for stage, (width, repeat) in enumerate(zip(widths, repeats, strict=True), start=1):
            dilation = 2 if dilate_last and stage == 4 else 1
            stride = 1 if stage == 1 or dilation == 2 else 2
            make = block
            if layout == "caffe":
                spatial = (
                    deformable_convolution if stage in deformable_stages else plain_convolution
                )
                make = partial(caffe_bottleneck, spatial=spatial)
            after = width * expansion
            options = {"dilation": 2} if dilation == 2 else {}
            layers = _stage(make, channels, width, after, repeat, stride, norm, options)
            self.add_module(f"layer{stage}", layers)
            channels = after
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, ModulatedDeformConv2d):
                module.start_in_place()

    def forward(self, images: Tensor) -> FeaturePyramid:
        """Features (N, C_s, H / stride, W / stride) of the chosen stages of images (N, 3, H, W)."""
        features = self.maxpool(convolve_norm(self.conv1, self.bn1, images))
        outputs = []
        for stage in range(1, max(self.out_stages) + 1):
            features = self.get_submodule(f"layer{stage}")(features)
            if stage in self.out_stages:
                outputs.append(features)
        return FeaturePyramid(tuple(outputs))

    def folded(self) -> FoldedResNet:
        """The same network for inference: no norms, fewer steps, no gradients."""
        return fold_resnet(self)


def _stage(
    block: Block,
    channels: int,
    width: int,
    out_channels: int,
    repeat: int,
    stride: int,
    norm: NormLayer,
    options: dict[str, Any],
) -> nn.Sequential:
    """Residual blocks of one stage; ``options`` (dilation) are for all but the first, as in
    torchvision."""
    shortcut = None
    if stride != 1 or channels != out_channels:
        projection = nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(projection, norm(out_channels))
    blocks = [block(channels, width, stride, shortcut, norm)]
    blocks += [block(out_channels, width, 1, None, norm, **options) for _ in range(repeat - 1)]
    return nn.Sequential(*blocks)


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Settings of a ``ResNet``."""

    depth: Literal[10, 18, 34, 50, 101] = 50
    """Number of layers: 10, 18 and 34 have basic blocks, 50 and 101 bottlenecks."""
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    """Base widths of the four stages."""
    out_stages: tuple[int, ...] = (2, 3, 4)
    """Stages that are handed on, from 1 (stride 4) to 4 (stride 32)."""
    norm: Literal["frozen", "batch"] = "frozen"
    """Batch norm with frozen statistics and scale (pretrained), or trained (from scratch)."""
    dilate_last: bool = False
    """Dilate the last stage instead of striding (DC5): twice the resolution, bottlenecks only."""
    layout: Literal["torchvision", "caffe"] = "torchvision"
    """Stride on a bottleneck's 3 x 3 convolution, or on its first 1 x 1 one (caffe weights)."""
    deformable_stages: tuple[int, ...] = ()
    """Stages whose 3 x 3 convolutions are deformable (DCNv2); caffe layout only."""
    frozen_stages: int = 0
    """Leave conv1 and the first so many stages untrained; 1 for pretrained weights in DETR."""

    def build(self) -> ResNet:
        """Build the backbone with random weights."""
        norm = FrozenBatchNorm2d if self.norm == "frozen" else BatchNorm2d
        backbone = ResNet(
            self.depth,
            widths=self.widths,
            out_stages=self.out_stages,
            norm=norm,
            dilate_last=self.dilate_last,
            layout=self.layout,
            deformable_stages=self.deformable_stages,
        )
        freeze_stages(backbone, self.frozen_stages)
        return backbone


def freeze_stages(backbone: ResNet, count: int) -> None:
    """Stop training conv1, its norm and the first ``count`` stages; 0 freezes nothing."""
    if not 0 <= count <= 4:
        raise ValueError(f"frozen_stages must lie in 0..4, got {count}")
    names = ["conv1", "bn1", *(f"layer{stage}" for stage in range(1, count + 1))] if count else []
    for name in names:
        backbone.get_submodule(name).requires_grad_(False)
