from __future__ import annotations

import math

import torch

from det3d.boxes import MetricBox3D
from det3d.checkpoints.detr3d import detr3d_table
from det3d.checkpoints.mmdet3d import (
    boxes_from_released,
    code_from_released,
    codes_to_released,
)
from det3d.systems.detr3d import DETR3DConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.checkpoints.rename import rename
from tests.helpers.rigs import random_boxes


def released_code(boxes: torch.Tensor) -> torch.Tensor:
    """The released code, written out from its definition in mmdet3d 0.17."""
    x, y, z, width, length, height, yaw, vx, vy = boxes.unbind(-1)
    entries = [x, y, width.log(), length.log(), z, height.log(), yaw.sin(), yaw.cos(), vx, vy]
    return torch.stack(entries, dim=-1)


def test_a_car_heading_along_x_has_yaw_minus_a_quarter_turn_there() -> None:
    ours = torch.tensor([1.0, 2, 3, 4.5, 1.9, 1.6, 0.0, 5, 6])
    theirs = torch.tensor([1.0, 2, 3, 1.9, 4.5, 1.6, -math.pi / 2, 5, 6])
    torch.testing.assert_close(boxes_from_released(theirs), ours)
    torch.testing.assert_close(boxes_from_released(ours), theirs)


def test_converted_codes_decode_to_converted_boxes() -> None:
    theirs = boxes_from_released(random_boxes(20).double())
    codes = code_from_released(released_code(theirs).T).T
    torch.testing.assert_close(MetricBox3D().decode(codes), boxes_from_released(theirs))
    torch.testing.assert_close(codes_to_released(codes), released_code(theirs))


def test_converted_rows_give_converted_codes() -> None:
    weight, bias, state = torch.randn(10, 4), torch.randn(10), torch.randn(3, 4)
    theirs = state @ weight.T + bias
    ours = state @ code_from_released(weight).T + code_from_released(bias)
    torch.testing.assert_close(codes_to_released(ours), theirs)


def test_extra_neck_levels_depend_on_the_number_of_stages() -> None:
    name = "img_neck.fpn_convs.3.conv.weight"
    assert rename(name, detr3d_table(3)) == "neck.pyramid.extra_blocks.convs.0.weight"
    assert rename(name, detr3d_table(4)) == "neck.pyramid.layer_blocks.3.0.weight"


def test_every_name_of_ours_has_official_rows_behind_it() -> None:
    """The targets of the table's rules cover the model, head by head."""
    config = DETR3DConfig(backbone=ResNetConfig(depth=50, layout="caffe", deformable_stages=(4,)))
    with torch.device("meta"):
        names = set(config.build(tuple("0123456789")).state_dict())
    official = [
        "img_backbone.layer4.0.conv2.conv_offset.bias",
        "img_backbone.layer1.0.downsample.1.running_var",
        "pts_bbox_head.transformer.decoder.layers.5.attentions.1.position_encoder.4.bias",
        "pts_bbox_head.transformer.decoder.layers.0.ffns.0.layers.1.weight",
        "pts_bbox_head.transformer.reference_points.weight",
        "pts_bbox_head.reg_branches.5.4.bias",
    ]
    assert {rename(name, config.official_table()) for name in official} <= names
