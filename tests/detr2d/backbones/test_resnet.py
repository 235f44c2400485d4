from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from detr2d.backbones.necks import FPN
from detr2d.backbones.resnet import ResNet, ResNetConfig


@pytest.mark.parametrize("depth", [18, 50])
def test_equals_torchvision_with_its_weights(depth: int) -> None:
    official = getattr(torchvision.models, f"resnet{depth}")().eval()
    ours = ResNet(depth, norm=nn.BatchNorm2d).eval()
    state = {k: v for k, v in official.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state)
    images = torch.rand(1, 3, 64, 96)
    features = official.maxpool(official.relu(official.bn1(official.conv1(images))))
    for stage, output in enumerate(ours(images), start=1):
        features = getattr(official, f"layer{stage}")(features)
        torch.testing.assert_close(output, features)


def test_strides_widths_and_chosen_stages() -> None:
    config = ResNetConfig(depth=10, widths=(4, 8, 12, 16), out_stages=(2, 4), norm="batch")
    backbone = config.build()
    maps = backbone(torch.rand(2, 3, 64, 96)).maps
    assert [tuple(m.shape) for m in maps] == [(2, 8, 8, 12), (2, 16, 2, 3)]
    assert backbone.out_channels == (8, 16)


def test_unknown_depth_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"\[10, 18, 34, 50, 101\], got 77"):
        ResNet(77)


def test_fpn_has_one_width_and_extra_coarse_levels() -> None:
    backbone = ResNetConfig(depth=10, widths=(4, 8, 12, 16), norm="batch").build()
    neck = FPN(backbone.out_channels, 6, extra_levels=1)
    shapes = [tuple(m.shape) for m in neck(backbone(torch.rand(1, 3, 64, 96)))]
    assert shapes == [(1, 6, 8, 12), (1, 6, 4, 6), (1, 6, 2, 3), (1, 6, 1, 2)]
    assert neck.num_levels == 4
