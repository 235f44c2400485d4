from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nuscenes import NuScenes
from nuscenes.utils.geometry_utils import transform_matrix, view_points
from pyquaternion import Quaternion
from torch.testing import assert_close

from det3d.boxes import box_corners
from det3d.cameras import CameraRig, absent_cameras, concatenate_rigs
from det3d.geometry import (
    make_transform,
    quaternion_to_rotation,
    rotation_about_z,
    transform_points,
)

REAL_FRAME = Path(__file__).resolve().parents[2] / "../shared/real/nuscenes_frame"
needs_real_frame = pytest.mark.skipif(
    not REAL_FRAME.exists(), reason="the real frame ../shared/real/nuscenes_frame is absent"
)


def make_rig(num_scenes: int = 2, num_cameras: int = 3, seed: int = 0) -> CameraRig:
    """A ring of unequal cameras in float64: focal lengths, sizes and poses all differ."""
    generator = torch.Generator().manual_seed(seed)
    lead = (num_scenes, num_cameras)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(lead, generator=generator, dtype=torch.float64) * (high - low) + low

    height, width = uniform(300, 500), uniform(600, 900)
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(*lead, 1, 1)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = uniform(400, 600), uniform(400, 600)
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = width / 2 + 5, height / 2 - 9
    forward = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]], dtype=torch.float64)
    yaw = torch.arange(num_cameras) * (2 * math.pi / num_cameras) + uniform(-0.1, 0.1)
    position = torch.stack([uniform(-1, 1), uniform(-1, 1), uniform(-0.5, 0.5)], -1)
    rotation = forward @ rotation_about_z(-yaw)
    translation = -(rotation @ position.unsqueeze(-1)).squeeze(-1)
    return CameraRig(
        intrinsics=intrinsics,
        camera_from_ref=make_transform(rotation, translation),
        image_sizes=torch.stack([height, width], -1),
        present=torch.ones(lead, dtype=torch.bool),
        timestamps=torch.arange(num_cameras, dtype=torch.float64).expand(lead),
    )


def random_points(num_scenes: int = 2, count: int = 400, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_scenes, count, 3, generator=generator, dtype=torch.float64)
    return points * torch.tensor([15.0, 15.0, 2.0], dtype=torch.float64)


def assert_same_rig(first: CameraRig, second: CameraRig) -> None:
    for field in fields(CameraRig):
        assert_close(getattr(first, field.name), getattr(second, field.name))


# --- against the devkit and the real frame ---------------------------------------------------


def test_project_agrees_with_the_devkit_on_any_rig() -> None:
    rig, points = make_rig(), random_points()
    projected = rig.project(points)
    for b, v in np.ndindex(2, 3):
        camera = transform_points(rig.camera_from_ref[b, v], points[b]).numpy()
        expected = view_points(camera.T, rig.intrinsics[b, v].numpy(), normalize=True)[:2].T
        front = camera[:, 2] > 0.1
        np.testing.assert_allclose(projected.pixels[b, v].numpy()[front], expected[front])
        np.testing.assert_allclose(projected.depth[b, v].numpy(), camera[:, 2])


@pytest.fixture(scope="module")
def info() -> dict[str, Any]:
    return json.loads((REAL_FRAME / "info.json").read_text())


@pytest.fixture(scope="module")
def database() -> NuScenes:
    return NuScenes("v1.0-mini", dataroot=str(REAL_FRAME), verbose=False)


def rig_from_info(info: dict[str, Any]) -> CameraRig:
    cameras = list(info["images"].values())
    bottom = [0.0, 0.0, 0.0, 1.0]
    matrices = [[*camera["lidar2cam"][:3], bottom] for camera in cameras]
    return CameraRig(
        intrinsics=torch.tensor([[camera["cam2img"] for camera in cameras]]).double(),
        camera_from_ref=torch.tensor([matrices], dtype=torch.float64),
        image_sizes=torch.tensor([900.0, 1600.0]).expand(1, len(cameras), 2),
        present=torch.ones(1, len(cameras), dtype=torch.bool),
        timestamps=torch.tensor([[camera["timestamp"] for camera in cameras]]).double(),
    )


def boxes_from_info(info: dict[str, Any]) -> torch.Tensor:
    rows = [[*instance["bbox_3d"], 0.0, 0.0] for instance in info["instances"]]
    return torch.tensor(rows, dtype=torch.float64)


def pose(record: dict[str, Any]) -> torch.Tensor:
    rotation = quaternion_to_rotation(torch.tensor(record["rotation"], dtype=torch.float64))
    return make_transform(rotation, torch.tensor(record["translation"], dtype=torch.float64))


def camera_from_lidar(database: NuScenes, channel: str) -> torch.Tensor:
    """The chain lidar → ego at lidar time → global → ego at camera time → camera."""
    data = database.sample[0]["data"]
    lidar, camera = (database.get("sample_data", data[name]) for name in ("LIDAR_TOP", channel))
    global_from_lidar = pose(database.get("ego_pose", lidar["ego_pose_token"])) @ pose(
        database.get("calibrated_sensor", lidar["calibrated_sensor_token"])
    )
    global_from_camera = pose(database.get("ego_pose", camera["ego_pose_token"])) @ pose(
        database.get("calibrated_sensor", camera["calibrated_sensor_token"])
    )
    return global_from_camera.inverse() @ global_from_lidar


@pytest.mark.real
@needs_real_frame
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_project_is_the_product_lidar2img_of_the_real_frame(
    info: dict[str, Any], dtype: torch.dtype
) -> None:
    rig = rig_from_info(info)
    rig = replace(
        rig,
        intrinsics=rig.intrinsics.to(dtype),
        camera_from_ref=rig.camera_from_ref.to(dtype),
    )
    corners = box_corners(boxes_from_info(info)).flatten(0, 1)
    projected = rig.project(corners.unsqueeze(0))
    for v, camera in enumerate(info["images"].values()):
        homogeneous = torch.cat([corners, torch.ones_like(corners[:, :1])], -1)
        image = homogeneous @ torch.tensor(camera["lidar2img"], dtype=torch.float64).T
        expected = image[:, :2] / image[:, 2:3]
        seen = projected.visible[0, v]
        assert seen.any()
        assert float((projected.pixels[0, v] - expected)[seen].abs().max()) <= 1e-3


@pytest.mark.real
@needs_real_frame
def test_our_chain_of_transforms_gives_the_matrices_of_the_real_frame(
    info: dict[str, Any], database: NuScenes
) -> None:
    corners = box_corners(boxes_from_info(info)).flatten(0, 1).unsqueeze(0)
    rig = rig_from_info(info)
    chained = torch.stack([camera_from_lidar(database, name) for name in info["images"]])
    ours = replace(rig, camera_from_ref=chained.unsqueeze(0)).project(corners)
    theirs = rig.project(corners)
    assert int(ours.visible.sum()) > 500
    assert float((ours.pixels - theirs.pixels)[ours.visible].abs().max()) <= 1e-3


@pytest.mark.real
@needs_real_frame
def test_boxes_land_where_the_devkit_draws_them(info: dict[str, Any], database: NuScenes) -> None:
    data = database.sample[0]["data"]
    _, boxes_lidar, _ = database.get_sample_data(data["LIDAR_TOP"])
    corners = {box.token: torch.from_numpy(box.corners().T) for box in boxes_lidar}
    rig, compared = rig_from_info(info), 0
    for v, channel in enumerate(info["images"]):
        _, boxes, intrinsics = database.get_sample_data(data[channel])
        for box in boxes:
            projected = rig.project(corners[box.token].unsqueeze(0))
            if bool((projected.depth[0, v] > 1).all()):
                expected = view_points(box.corners(), intrinsics, normalize=True)[:2].T
                np.testing.assert_allclose(projected.pixels[0, v].numpy(), expected, atol=1e-3)
                compared += 1
    assert compared > 60


@pytest.mark.real
@needs_real_frame
def test_box_centres_are_those_of_the_real_frame(info: dict[str, Any]) -> None:
    rig, boxes = rig_from_info(info), boxes_from_info(info)
    centres = rig.project(boxes[None, :, :3])
    for v, (channel, instances) in enumerate(info["cam_instances"].items()):
        assert channel == list(info["images"])[v]
        for instance in instances:
            expected = torch.tensor(instance["center_2d"], dtype=torch.float64)
            distances = (centres.pixels[0, v] - expected).abs().amax(-1)
            index = int(distances.where(centres.depth[0, v] > 0, torch.inf).argmin())
            assert float(distances[index]) < 0.5
            assert float(centres.depth[0, v, index]) == pytest.approx(instance["depth"], abs=1e-2)


# --- projection --------------------------------------------------------------------------------


def test_a_point_projected_by_hand() -> None:
    rig = replace(
        absent_cameras(1, 1),
        intrinsics=torch.tensor([[[[100.0, 0, 50], [0, 200, 40], [0, 0, 1]]]]),
        image_sizes=torch.tensor([[[80.0, 100.0]]]),
        present=torch.tensor([[True]]),
    )
    projected = rig.project(torch.tensor([[[1.0, -0.5, 4.0], [0, 0, -2], [2, 0, 4]]]))
    assert projected.pixels[0, 0, 0].tolist() == [75.0, 15.0]
    assert projected.depth[0, 0].tolist() == [4, -2, 4]
    assert projected.visible[0, 0].tolist() == [True, False, False]  # in, behind, on the border


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 5), st.booleans())
def test_project_then_unproject_returns_the_point(seed: int, cameras: int, moved: bool) -> None:
    rig, points = make_rig(2, cameras, seed), random_points(seed=seed)
    if moved:  # also for a ref frame that is scaled and sheared
        generator = torch.Generator().manual_seed(seed)
        change = torch.eye(4, dtype=torch.float64)
        change[:3] += 0.1 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
        rig, points = rig.moved(change), transform_points(change.inverse(), points)
    projected = rig.project(points)
    lifted = rig.unproject(projected.pixels, projected.depth)
    front = projected.depth > 0.1
    expected = points.unsqueeze(1).expand_as(lifted)
    assert_close(lifted[front], expected[front], atol=1e-8, rtol=1e-8)


def test_unproject_then_project_returns_the_pixel() -> None:
    rig = make_rig()
    pixels = torch.rand(2, 3, 50, 2, dtype=torch.float64) * 300
    depth = torch.rand(2, 3, 50, dtype=torch.float64) * 40 + 1
    points = rig.unproject(pixels, depth)
    for v in range(rig.num_cameras):
        projected = rig.project(points[:, v])
        assert_close(projected.pixels[:, v], pixels[:, v])
        assert_close(projected.depth[:, v], depth[:, v])


def test_visible_points_are_in_front_inside_and_of_a_present_camera() -> None:
    rig = make_rig()
    projected = rig.project(random_points())
    u, v = projected.pixels.unbind(-1)
    height, width = rig.image_sizes[..., None, :].unbind(-1)
    inside = (u > 0) & (u < width) & (v > 0) & (v < height) & (projected.depth > 0)
    assert torch.equal(projected.visible, inside)
    assert projected.visible.any((0, 2)).all()


def test_absent_cameras_see_nothing_and_change_nothing() -> None:
    rig, points = make_rig(), random_points()
    alone, padded = rig.project(points), rig.padded(5).project(points)
    assert not padded.visible[:, 3:].any()
    assert torch.equal(padded.visible[:, :3], alone.visible)
    assert torch.equal(padded.pixels[:, :3], alone.pixels)
    hidden = replace(rig, present=torch.tensor([[True, False, True]] * 2)).project(points)
    assert torch.equal(hidden.visible[:, 0], alone.visible[:, 0])
    assert not hidden.visible[:, 1].any()
    assert all(bool(getattr(padded, f.name).isfinite().all()) for f in fields(padded))


def test_projection_has_exact_gradients() -> None:
    rig = make_rig(1, 2)
    points = rig.unproject(
        torch.rand(1, 2, 3, 2, dtype=torch.float64) * 300,
        torch.rand(1, 2, 3, dtype=torch.float64) * 20 + 2,
    )[:, 0]

    def pixels(points_ref: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
        return replace(rig, intrinsics=intrinsics).project(points_ref).pixels[:, 0]

    inputs = (points.requires_grad_(), rig.intrinsics.clone().requires_grad_())
    assert torch.autograd.gradcheck(pixels, inputs)


def test_points_behind_every_camera_have_finite_gradients() -> None:
    points = torch.zeros(1, 4, 3, dtype=torch.float64).requires_grad_()
    projected = make_rig(1, 2).project(points)
    (projected.pixels * projected.visible.unsqueeze(-1)).sum().backward()
    assert points.grad is not None
    assert bool(points.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_geometry_stays_float32_under_autocast(dtype: torch.dtype) -> None:
    rig = make_rig()
    rig = replace(
        rig, intrinsics=rig.intrinsics.float(), camera_from_ref=rig.camera_from_ref.float()
    )
    points = random_points().float()
    expected = rig.project(points)
    with torch.autocast("cpu", dtype):
        projected = rig.project(points)
        lifted = rig.unproject(projected.pixels, projected.depth)
        from_half = rig.unproject(projected.pixels.to(dtype), projected.depth.to(dtype))
    assert torch.equal(projected.pixels, expected.pixels)
    assert lifted.dtype == from_half.dtype == torch.float32


# --- images that change --------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.floats(0.2, 3), st.floats(0.2, 3))
def test_resizing_scales_pixels_and_keeps_what_is_visible(tall: float, wide: float) -> None:
    rig, points = make_rig(), random_points()
    scale = torch.tensor([tall, wide], dtype=torch.float64)
    before, after = rig.project(points), rig.resized(rig.image_sizes * scale).project(points)
    assert_close(after.pixels, before.pixels * scale.flip(-1))
    assert_close(after.depth, before.depth)
    assert torch.equal(after.visible, before.visible)


def test_resizing_to_one_size_serves_cameras_of_any_size() -> None:
    rig, points = make_rig(), random_points()
    resized = rig.resized(torch.tensor([64, 128]))
    assert resized.image_sizes.tolist() == [[[64, 128]] * 3] * 2
    assert torch.equal(resized.project(points).visible, rig.project(points).visible)
    assert_same_rig(resized.resized(rig.image_sizes), rig)


def test_cropping_shifts_pixels() -> None:
    rig, points = make_rig(), random_points()
    corner, sizes = torch.tensor([30.0, -12.0]), torch.tensor([200.0, 400.0])  # top, left
    before, after = rig.project(points), rig.cropped(corner, sizes).project(points)
    front = before.depth > 0
    assert_close(after.pixels[front], (before.pixels - corner.flip(-1))[front])
    u, v = after.pixels.unbind(-1)
    inside = (u > 0) & (u < 400) & (v > 0) & (v < 200) & (before.depth > 0)
    assert torch.equal(after.visible, inside)


def test_flipping_mirrors_pixels_and_twice_is_nothing() -> None:
    rig, points = make_rig(), random_points()
    before, after = rig.project(points), rig.flipped().project(points)
    front = before.depth > 0
    mirrored = rig.image_sizes[..., None, 1] - before.pixels[..., 0]
    assert_close(after.pixels[..., 0][front], mirrored[front])
    assert_close(after.pixels[..., 1], before.pixels[..., 1])
    assert torch.equal(after.visible, before.visible)
    assert_same_rig(rig.flipped().flipped(), rig)


@pytest.mark.parametrize("shared", [True, False], ids=["one transform", "one per scene"])
def test_moving_the_frame_keeps_every_pixel(shared: bool) -> None:
    rig, points_new = make_rig(), random_points()
    rotation = Quaternion(axis=[0.1, 0.2, 1], radians=1.0)
    matrix = torch.from_numpy(transform_matrix([3.0, -2.0, 0.5], rotation))
    old_from_new = matrix if shared else torch.stack([matrix, matrix.inverse()])
    before = rig.project(transform_points(old_from_new, points_new))
    after = rig.moved(old_from_new).project(points_new)
    assert_close(after.pixels, before.pixels)
    assert_close(after.depth, before.depth)


def test_a_mirrored_world_in_mirrored_images_is_the_flip_augmentation() -> None:
    rig, points = make_rig(), random_points()
    mirror = torch.diag(torch.tensor([1.0, -1, 1, 1], dtype=torch.float64))
    before = rig.project(points)
    after = rig.flipped().moved(mirror).project(points * mirror.diagonal()[:3])
    assert_close(after.depth, before.depth)
    assert torch.equal(after.visible, before.visible)


# --- cameras that change -------------------------------------------------------------------------


def test_select_permutes_and_drops_cameras() -> None:
    rig, points = make_rig(), random_points()
    chosen = rig.select([2, 0])
    assert chosen.num_cameras == 2
    assert chosen.timestamps[0].tolist() == [2, 0]
    assert_close(chosen.project(points).pixels, rig.project(points).pixels[:, [2, 0]])


def test_padding_to_fewer_cameras_is_refused() -> None:
    with pytest.raises(ValueError, match="rig of 3 cameras to 2"):
        make_rig().padded(2)


def test_rigs_of_unequal_length_join_with_absent_cameras() -> None:
    joined = concatenate_rigs([make_rig(1, 2), make_rig(2, 4)])
    assert (joined.num_scenes, joined.num_cameras) == (3, 4)
    assert joined.present.tolist() == [[True, True, False, False]] + [[True] * 4] * 2
    assert joined.timestamps.dtype == torch.float64
    assert joined.intrinsics.dtype == torch.float64


def test_a_rig_whose_parts_disagree_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image_sizes must have shape \(B V 2\) with B=2, V=3"):
        replace(make_rig(), image_sizes=torch.ones(2, 4, 2))
