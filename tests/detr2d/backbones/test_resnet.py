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


def test_dilated_last_stage_equals_torchvision_with_its_weights() -> None:
    official = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]).eval()
    ours = ResNet(50, norm=nn.BatchNorm2d, out_stages=(4,), dilate_last=True).eval()
    state = {k: v for k, v in official.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state)
    images = torch.rand(1, 3, 64, 96)
    features = official.maxpool(official.relu(official.bn1(official.conv1(images))))
    for stage in (official.layer1, official.layer2, official.layer3, official.layer4):
        features = stage(features)
    (output,) = ours(images).maps
    assert output.shape == (1, 2048, 4, 6)
    torch.testing.assert_close(output, features)


def test_basic_blocks_cannot_be_dilated() -> None:
    with pytest.raises(ValueError, match="ResNet-18 cannot be dilated"):
        ResNetConfig(depth=18, dilate_last=True).build()


@pytest.mark.parametrize("count, frozen", [(0, set()), (1, {"conv1", "layer1"})])
def test_frozen_stages_are_not_trained(count: int, frozen: set[str]) -> None:
    backbone = ResNetConfig(depth=18, frozen_stages=count).build()
    still = {n.split(".")[0] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert still == frozen


def test_more_frozen_stages_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.4, got 5"):
        ResNetConfig(depth=18, frozen_stages=5).build()
