from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from detr2d.backbones.necks import CPFPN, FPN
from detr2d.backbones.resnet import ResNet, ResNetConfig
from detr2d.structures import FeaturePyramid


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


def test_caffe_layout_strides_the_first_convolution() -> None:
    backbone = ResNetConfig(depth=50, widths=(4, 4, 8, 8), layout="caffe", out_stages=(4,)).build()
    block = backbone.get_submodule("layer2.0")
    assert block.conv1.stride == (2, 2) and block.conv2.stride == (1, 1)
    assert backbone(torch.rand(1, 3, 64, 96)).maps[0].shape == (1, 32, 2, 3)


def test_caffe_layout_equals_torchvision_where_nothing_is_strided() -> None:
    caffe = ResNet(50, widths=(4, 4, 4, 4), out_stages=(1,), layout="caffe")
    plain = ResNet(50, widths=(4, 4, 4, 4), out_stages=(1,))
    plain.load_state_dict(caffe.state_dict())
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(caffe(images).maps[0], plain(images).maps[0])


def test_deformable_stages_have_deformable_convolutions() -> None:
    backbone = ResNet(50, widths=(4, 4, 4, 4), layout="caffe", deformable_stages=(3, 4))
    deformable = {n.split(".")[0] for n, _ in backbone.named_modules() if n.endswith("conv_offset")}
    assert deformable == {"layer3", "layer4"}
    assert len(backbone(torch.rand(1, 3, 64, 64)).maps) == 4


@pytest.mark.parametrize(
    "options", [{"depth": 18, "layout": "caffe"}, {"depth": 50, "deformable_stages": (3,)}]
)
def test_layouts_that_do_not_exist_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="caffe layout"):
        ResNetConfig(**options).build()


def test_cpfpn_mixes_coarse_levels_into_the_finest() -> None:
    neck = CPFPN((3, 5), 4)
    fine, coarse = torch.randn(1, 3, 5, 6), torch.randn(1, 5, 3, 3)
    maps = neck(FeaturePyramid((fine, coarse))).maps
    assert [tuple(m.shape) for m in maps] == [(1, 4, 5, 6), (1, 4, 3, 3)]
    torch.testing.assert_close(maps[1], neck.laterals[1](coarse))
    other = neck(FeaturePyramid((fine, coarse + 1))).maps
    assert not torch.equal(other[0], maps[0])
