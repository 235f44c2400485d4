from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyquaternion import Quaternion
from torch.testing import assert_close

from det3d.geometry import (
    Region,
    invert_transform,
    is_rigid,
    make_transform,
    quaternion_to_rotation,
    rotation_about_z,
    transform_points,
    transform_yaw,
    wrap_angle,
)

angles = st.floats(-1e3, 1e3, width=32)


def random_transforms(
    *lead: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = quaternion_to_rotation(torch.randn(*lead, 4, generator=generator, dtype=dtype))
    return make_transform(rotation, 10 * torch.randn(*lead, 3, generator=generator, dtype=dtype))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_a_transform_times_its_inverse_is_the_identity(lead: tuple[int, ...]) -> None:
    transform = random_transforms(*lead)
    product = invert_transform(transform) @ transform
    assert_close(product, torch.eye(4, dtype=torch.float64).expand_as(product))


def test_transform_points_is_the_homogeneous_product() -> None:
    transform = random_transforms(2, 1)
    points = torch.randn(2, 5, 7, 3, dtype=torch.float64)
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    expected = (transform.unsqueeze(-3) @ homogeneous.unsqueeze(-1))[..., :3, 0]
    assert_close(transform_points(transform, points), expected)


def test_transforms_compose_by_cancelling_neighbours() -> None:
    c_from_b, b_from_a = random_transforms(2)
    points_a = torch.randn(5, 3, dtype=torch.float64)
    stepwise = transform_points(c_from_b, transform_points(b_from_a, points_a))
    assert_close(transform_points(c_from_b @ b_from_a, points_a), stepwise)


@pytest.mark.parametrize(
    "transform, expected",
    [
        (torch.eye(4), True),
        (torch.diag(torch.tensor([1.0, -1, 1, 1])), False),
        (torch.diag(torch.tensor([2.0, 2, 2, 1])), False),
        (torch.diag(torch.tensor([1.0, 1, 1, 2])), False),
    ],
    ids=["identity", "mirrored", "scaled", "bottom row"],
)
def test_is_rigid_tells_rotations_from_other_maps(transform: torch.Tensor, expected: bool) -> None:
    assert bool(is_rigid(transform)) is expected


def test_random_rotations_are_rigid() -> None:
    assert bool(is_rigid(random_transforms(20)).all())


@pytest.mark.parametrize("seed", range(5))
def test_quaternions_agree_with_pyquaternion(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=4) * 3
    ours = quaternion_to_rotation(torch.from_numpy(values))
    np.testing.assert_allclose(ours.numpy(), Quaternion(values).rotation_matrix, atol=1e-12)


def test_a_quaternion_of_length_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="length zero"):
        quaternion_to_rotation(torch.zeros(2, 4))


def test_rotation_about_z_turns_x_to_y() -> None:
    turned = rotation_about_z(torch.tensor(math.pi / 2)) @ torch.tensor([1.0, 0, 0])
    assert_close(turned, torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)


@given(angles)
def test_wrapped_angles_lie_in_the_half_open_circle_and_point_the_same_way(angle: float) -> None:
    wrapped = wrap_angle(torch.tensor(angle, dtype=torch.float32))
    pi = torch.tensor(math.pi, dtype=torch.float32)
    assert -pi <= wrapped < pi
    assert math.cos(wrapped) == pytest.approx(math.cos(angle), abs=1e-3)
    assert math.sin(wrapped) == pytest.approx(math.sin(angle), abs=1e-3)


@pytest.mark.parametrize(
    "angle, expected",
    [
        (0.5, 0.5),
        (3.5, 3.5 - 2 * math.pi),
        (-3.5, 2 * math.pi - 3.5),
        (math.pi, -math.pi),
    ],
)
def test_wrap_angle_by_hand(angle: float, expected: float) -> None:
    assert_close(wrap_angle(torch.tensor(angle)), torch.tensor(expected), atol=1e-6, rtol=0)


@given(angles, angles)
def test_yaw_adds_up_under_turns_about_z(turn: float, yaw: float) -> None:
    transform = make_transform(
        rotation_about_z(torch.tensor(turn, dtype=torch.float64)), torch.zeros(3).double()
    )
    turned = transform_yaw(transform, torch.tensor([yaw], dtype=torch.float64))
    assert_close(
        wrap_angle(turned - turn - yaw).abs().sin(), torch.zeros(1).double(), atol=1e-9, rtol=0
    )
    assert float((turned - turn - yaw).cos()) == pytest.approx(1)


def test_region_corners_are_the_unit_cube() -> None:
    region = Region()
    corners = torch.tensor([[-51.2, -51.2, -5.0], [51.2, 51.2, 3.0], [0.0, 0.0, -1.0]])
    unit = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]])
    assert_close(region.to_unit(corners), unit)
    assert_close(region.to_metres(unit), corners)


def test_region_round_trip_also_outside() -> None:
    points = torch.randn(100, 3, dtype=torch.float64) * 100
    region = Region((-10, -20, -1), (30, 40, 2))
    assert_close(region.to_metres(region.to_unit(points)), points)


def test_region_contains_its_borders_and_nothing_beyond() -> None:
    region = Region((0, 0, 0), (1, 2, 3))
    points = torch.tensor([[0.0, 0, 0], [1, 2, 3], [0.5, 2.1, 1], [0.5, 1, -0.1], [1.1, 1, 1]])
    assert region.contains(points).tolist() == [True, True, False, False, False]


def test_an_empty_region_is_refused() -> None:
    with pytest.raises(ValueError, match="lower < upper"):
        Region((0, 0, 0), (1, 0, 1))
