import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyquaternion import Quaternion

from det3d import boxes as definition
from det3d import geometry as transforms
from det3d.results.geometry import (
    box_corners,
    box_rotations,
    camera_azimuth,
    invert_transform,
    quaternion_yaws,
    quaternions,
    transform_boxes,
)
from tests.helpers.result_frames import rigid, ring_camera

FRAME = rigid(0.1, 0.7, [3.0, -2.0, 1.0])


def random_boxes(count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    centre, size = random.normal(0, 20, (count, 3)), random.uniform(0.3, 9, (count, 3))
    yaw, velocity = random.uniform(-3, 3, (count, 1)), random.normal(0, 5, (count, 2))
    return np.hstack([centre, size, yaw, velocity])


def test_boxes_move_as_the_definition_says() -> None:
    boxes = random_boxes(20)
    expected = definition.transform_boxes(torch.from_numpy(FRAME), torch.from_numpy(boxes))
    np.testing.assert_allclose(transform_boxes(FRAME, boxes), expected, atol=1e-12)


def test_corners_are_those_of_the_definition() -> None:
    boxes = random_boxes(20)
    expected = definition.box_corners(torch.from_numpy(boxes))
    np.testing.assert_allclose(box_corners(boxes), expected, atol=1e-12)


def test_a_transform_and_its_inverse_cancel() -> None:
    np.testing.assert_allclose(invert_transform(FRAME) @ FRAME, np.eye(4), atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.hypot(*q[:2]) > 0.1))
def test_quaternions_are_those_of_their_rotations(numbers: list[float]) -> None:
    expected = Quaternion(*numbers).normalised
    found = quaternions(expected.rotation_matrix[None])[0]
    assert abs(found @ expected.elements) == pytest.approx(1, abs=1e-12)
    assert found[0] >= 0


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_half_turns_have_quaternions_too(axis: tuple[int, int, int]) -> None:
    turn = Quaternion(axis=axis, angle=math.pi).rotation_matrix
    np.testing.assert_allclose(np.abs(quaternions(turn[None])[0, 1:]), axis, atol=1e-8)


def test_a_heading_survives_the_way_through_a_quaternion() -> None:
    yaws = np.array([-2.0, 0.1, 3.0])
    expected = transforms.transform_yaw(torch.from_numpy(FRAME), torch.from_numpy(yaws))
    found = quaternion_yaws(quaternions(box_rotations(FRAME, yaws)))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_azimuth_is_positive_to_the_left() -> None:
    left = ring_camera(math.radians(120))
    assert camera_azimuth(left.camera_from_ref, math.pi / 2) == pytest.approx(math.radians(30))
