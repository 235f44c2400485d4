from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nuscenes.eval.common.utils import quaternion_yaw
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion
from torch.testing import assert_close

from det3d.boxes import (
    CORNER_EDGES,
    CORNER_SIGNS,
    MetricBox3D,
    box_corners,
    points_in_boxes,
    transform_boxes,
)
from det3d.geometry import make_transform, quaternion_to_rotation, wrap_angle


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.randn(count, 9, generator=generator, dtype=torch.float64) * 10
    boxes[:, 3:6] = boxes[:, 3:6].abs() / 3 + 0.2
    boxes[:, 6] = wrap_angle(boxes[:, 6])
    return boxes


def devkit_box(box: torch.Tensor) -> Box:
    x, y, z, length, width, height, yaw, vx, vy = box.tolist()
    return Box(
        [x, y, z],
        [width, length, height],
        Quaternion(axis=[0, 0, 1], radians=yaw),
        velocity=(vx, vy, 0.0),
    )


@pytest.mark.parametrize("seed", range(3))
def test_corners_are_those_of_the_devkit_in_its_order(seed: int) -> None:
    boxes = random_boxes(4, seed)
    expected = np.stack([devkit_box(box).corners().T for box in boxes])
    np.testing.assert_allclose(box_corners(boxes).numpy(), expected, atol=1e-9)


def test_the_first_four_corners_are_the_front_face() -> None:
    box = torch.tensor([0.0, 0, 0, 4, 2, 1, math.pi / 2, 0, 0])  # heads along +y
    assert_close(box_corners(box)[:4, 1], torch.full((4,), 2.0))


def test_every_edge_joins_corners_that_differ_in_one_sign() -> None:
    signs = torch.tensor(CORNER_SIGNS)
    first, second = torch.tensor(CORNER_EDGES).unbind(-1)
    assert (signs[first] != signs[second]).sum(-1).tolist() == [1] * 12
    assert len({frozenset(edge) for edge in CORNER_EDGES}) == 12


def test_points_in_boxes_agrees_with_the_devkit() -> None:
    boxes = random_boxes(5)
    points = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    points = points * 2 + boxes[torch.arange(500) % 5, :3]
    inside = points_in_boxes(points, boxes)
    expected = np.stack([points_in_box(devkit_box(box), points.T.numpy()) for box in boxes])
    assert inside.sum() > 20
    np.testing.assert_array_equal(inside.numpy(), expected)


def test_points_in_boxes_of_nothing() -> None:
    boxes = random_boxes(3).float()
    assert points_in_boxes(torch.zeros(0, 3), boxes).shape == (3, 0)
    assert points_in_boxes(torch.zeros(2, 3), boxes[:0]).shape == (0, 2)


def test_transform_boxes_agrees_with_the_devkit() -> None:
    boxes = random_boxes(20)
    rotation = Quaternion(axis=[0.02, -0.01, 1], radians=2.1)  # tilted, as an ego pose is
    translation = np.array([400.0, 1100.0, 1.8])
    transform = make_transform(
        torch.from_numpy(rotation.rotation_matrix), torch.from_numpy(translation)
    )
    moved = transform_boxes(transform, boxes)
    for box, ours in zip(boxes, moved, strict=True):
        reference = devkit_box(box)
        reference.rotate(rotation)
        reference.translate(translation)
        np.testing.assert_allclose(ours[:3].numpy(), reference.center, atol=1e-9)
        np.testing.assert_allclose(ours[7:].numpy(), reference.velocity[:2], atol=1e-9)
        yaw = quaternion_yaw(reference.orientation)
        assert float(wrap_angle(ours[6] - yaw)) == pytest.approx(0, abs=1e-9)
        assert ours[3:6].tolist() == box[3:6].tolist()


def test_transform_boxes_there_and_back_about_z() -> None:
    quaternion = torch.tensor([math.cos(0.4), 0, 0, math.sin(0.4)], dtype=torch.float64)
    transform = make_transform(quaternion_to_rotation(quaternion), torch.randn(3).double())
    boxes = random_boxes(10).expand(2, 10, 9)
    back = transform_boxes(transform.inverse().expand(2, 4, 4), transform_boxes(transform, boxes))
    assert_close(back, boxes)


def test_transform_boxes_keeps_velocity_unknown() -> None:
    boxes = random_boxes(2)
    boxes[0, 7:] = torch.nan
    moved = transform_boxes(torch.eye(4, dtype=torch.float64), boxes)
    assert moved.isnan().sum(-1).tolist() == [2, 0]


def test_encode_then_decode_returns_the_box() -> None:
    codec = MetricBox3D()
    boxes = random_boxes(50)
    assert_close(codec.decode(codec.encode(boxes)), boxes)


def test_decode_does_not_care_for_the_length_of_the_heading() -> None:
    codec = MetricBox3D()
    codes = codec.encode(random_boxes(5))
    stretched = codes.clone()
    stretched[:, 6:8] *= 7
    assert_close(codec.decode(stretched), codec.decode(codes))


def test_code_entries_by_hand() -> None:
    box = torch.tensor([1.0, 2, 3, math.e, 1, math.e**2, math.pi / 2, 4, 5])
    expected = torch.tensor([1.0, 2, 3, 1, 0, 2, 1, 0, 4, 5])
    assert_close(MetricBox3D().encode(box), expected, atol=1e-6, rtol=1e-6)


def test_costs_by_hand_leave_velocity_out() -> None:
    codes = torch.zeros(2, 10)
    codes[1, 0], codes[1, 9] = 1, 100
    targets = torch.zeros(3, 10)
    targets[1, 3], targets[2, 8] = -2, torch.nan
    cost = MetricBox3D().costs(codes, targets)["l1"]
    assert cost.tolist() == [[0, 2, 0], [1, 3, 1]]


def test_losses_by_hand_weigh_velocity_a_fifth() -> None:
    codes, targets = torch.zeros(2, 10), torch.zeros(2, 10)
    targets[0, :8], targets[0, 8:] = 1, 5
    loss = MetricBox3D().losses(codes, targets)["l1"]
    assert_close(loss, torch.tensor([8 + 0.2 * 5 * 2, 0]))


def test_unknown_velocity_adds_nothing_and_has_a_finite_zero_gradient() -> None:
    codes = torch.ones(2, 10, requires_grad=True)
    targets = torch.zeros(2, 10)
    targets[0, 8:] = torch.nan
    loss = MetricBox3D().losses(codes, targets)["l1"]
    loss.sum().backward()
    assert_close(loss, torch.tensor([8.0, 8.4]))
    assert codes.grad is not None
    assert codes.grad[0].tolist() == [1] * 8 + [0, 0]
    assert_close(codes.grad[1, 8:], torch.full((2,), 0.2))


def test_losses_of_no_pairs_are_empty() -> None:
    assert MetricBox3D().losses(torch.zeros(0, 10), torch.zeros(0, 10))["l1"].shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_costs_and_losses_are_float32_under_autocast(dtype: torch.dtype) -> None:
    codec = MetricBox3D()
    codes, targets = torch.full((3, 10), 50.123, dtype=dtype), torch.zeros(3, 10)
    expected = codec.losses(codes, targets)["l1"]
    with torch.autocast("cpu", torch.bfloat16):
        loss, cost = codec.losses(codes, targets)["l1"], codec.costs(codes, targets)["l1"]
    assert loss.dtype == cost.dtype == torch.float32
    assert_close(loss, expected)


def test_a_wrong_number_of_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="10 weights, got 3"):
        MetricBox3D(weights=(1, 2, 3))
