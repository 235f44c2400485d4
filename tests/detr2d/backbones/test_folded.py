from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detr2d.backbones.deformable_conv import ModulatedDeformConv2d
from detr2d.backbones.folded import FoldedConvolution
from detr2d.backbones.resnet import ResNet, ResNetConfig


def make_backbone(**settings: Any) -> ResNet:
    """A small backbone in evaluation mode whose norms do something."""
    torch.manual_seed(0)
    backbone = ResNetConfig(**{"widths": (8, 8, 16, 16), "out_stages": (1, 2, 3, 4), **settings})
    built = backbone.build().eval()
    for module in built.modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.3, 1.2),
                (module.bias, -0.3, 0.3),
            ):
                nn.init.uniform_(tensor, low, high)
        if isinstance(module, ModulatedDeformConv2d):
            nn.init.normal_(module.conv_offset.bias)
    return built


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 10},
        {"depth": 18, "norm": "batch"},
        {"depth": 50},
        {"depth": 50, "dilate_last": True},
        {"depth": 50, "out_stages": (2, 3)},
        {"depth": 50, "layout": "caffe", "deformable_stages": (3, 4)},
    ],
    ids=str,
)
def test_the_folded_backbone_computes_the_same(settings: dict[str, Any]) -> None:
    backbone = make_backbone(**settings)
    images = torch.randn(2, 3, 70, 96).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = backbone(images)
        found = backbone.folded()(images)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_folding_is_exact_in_double_precision_and_leaves_the_backbone_alone() -> None:
    backbone = make_backbone(depth=50).double()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        found, expected = backbone.folded()(images).maps[-1], backbone(images).maps[-1]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(before[name], now) for name, now in backbone.state_dict().items())


def test_nothing_is_left_of_the_norms() -> None:
    folded = make_backbone(depth=50).folded()
    kinds = {type(module) for module in folded.modules()}
    assert not kinds & {FrozenBatchNorm2d, nn.BatchNorm2d, nn.Conv2d}
    assert sum(isinstance(module, FoldedConvolution) for module in folded.modules()) == 53


def test_rounded_weights_give_rounded_features() -> None:
    backbone = make_backbone(depth=18)
    images = torch.randn(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = backbone(images).maps[-1]
        found = backbone.folded().to(torch.bfloat16)(images).maps[-1]
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_another_kind_of_convolution_stays_as_it_is() -> None:
    class Other(nn.Conv2d):
        pass

    backbone = make_backbone(depth=18)
    block = backbone.layer3[0]
    block.conv2.__class__ = Other
    folded = backbone.folded()
    assert folded.stages[2][0] is block
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            folded(images).maps[-1], backbone(images).maps[-1], rtol=1e-4, atol=1e-4
        )
