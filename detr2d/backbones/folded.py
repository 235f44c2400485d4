"""ResNets for inference: norms folded into convolutions, and what follows done in the same step.

A norm with fixed statistics is a scale and a shift per channel. Both go into the convolution before
it, once, so that a forward pass has neither their kernels nor their traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detr2d.backbones.batch_norm import is_plain, scale_and_shift
from detr2d.ops.convolution import Window, convolve
from detr2d.structures import FeaturePyramid


class FoldedConvolution(nn.Module):
    """A convolution with the fixed norm that followed it, and optionally a ReLU; no gradients.

    It computes in the type of its weights, whatever the type of its input.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, window: Window, *, relu: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.window = window
        self.relu = relu

    def forward(self, images: Tensor, added: Tensor | None = None) -> Tensor:
        """Maps (N, C_out, H_out, W_out) of images (N, C, H, W); ``added`` joins before the ReLU."""
        images = images.to(self.weight.dtype)
        return convolve(images, self.weight, self.bias, self.window, added=added, relu=self.relu)


class FoldedBlock(nn.Module):
    """A residual block: convolutions, the last of which adds the (projected) input."""

    def __init__(self, convolutions: Sequence[nn.Module], shortcut: nn.Module) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.shortcut = shortcut

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C, H, W) of this block."""
        added = self.shortcut(features)
        *first, last = self.convolutions
        for convolution in first:
            features = convolution(features)
        return last(features, added)


class FoldedResNet(nn.Module):
    """A ``ResNet`` for inference, see ``fold_resnet``."""

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], out_stages: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.stem = stem
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.ModuleList(stages)
        self.out_stages = out_stages

    def forward(self, images: Tensor) -> FeaturePyramid:
        """Features (N, C_s, H / stride, W / stride) of the chosen stages of images (N, 3, H, W)."""
        features = self.maxpool(self.stem(images))
        outputs = []
        for number, stage in enumerate(self.stages, start=1):
            features = stage(features)
            if number in self.out_stages:
                outputs.append(features)
        return FeaturePyramid(tuple(outputs))


def fold_convolution(convolution: Any, norm: Any, *, relu: bool) -> FoldedConvolution:
    """One convolution for ``norm(convolution(x))``.

    ``norm`` is a batch norm with fixed statistics (frozen, or in evaluation mode). The product is
    formed in float64, so that folding rounds once.
    """
    scale, shift = scale_and_shift(norm, torch.float64)
    weight = convolution.weight.double() * scale.view(-1, 1, 1, 1)
    window = Window(convolution.stride, convolution.padding, convolution.dilation)
    dtype = convolution.weight.dtype
    return FoldedConvolution(weight.to(dtype).detach(), shift.to(dtype).detach(), window, relu=relu)


def fold_block(block: Any) -> nn.Module:
    """The folded form of a residual block.

    A block with another kind of convolution (grouped) is returned as it is.
    """
    steps = list(block.steps())
    if not all(is_plain(conv) or hasattr(conv, "with_norm") for conv, _ in steps):
        return block
    shortcut: nn.Module = nn.Identity()
    if block.downsample is not None:
        shortcut = fold_convolution(*block.downsample, relu=False)
    return FoldedBlock([fold_step(*step) for step in steps], shortcut)


def fold_step(convolution: Any, norm: Any) -> nn.Module:
    """The folded form of a convolution, plain or deformable, its norm and a ReLU."""
    if is_plain(convolution):
        return fold_convolution(convolution, norm, relu=True)
    return convolution.with_norm(*scale_and_shift(norm, torch.float64))


def fold_resnet(backbone: Any) -> FoldedResNet:
    """What a ``ResNet`` in evaluation mode computes, with its present weights, for inference."""
    stages = [
        nn.Sequential(*(fold_block(block) for block in backbone.get_submodule(f"layer{number}")))
        for number in range(1, max(backbone.out_stages) + 1)
    ]
    stem = fold_convolution(backbone.conv1, backbone.bn1, relu=True)
    return FoldedResNet(stem, stages, backbone.out_stages).eval()
