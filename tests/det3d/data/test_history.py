from __future__ import annotations

import pytest
import torch

from det3d.data.history import PreviousKeyFrame, previous_row
from det3d.data.nuscenes import NuScenesConfig
from det3d.geometry import transform_points
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> NuScenesConfig:
    root = write_tiny_nuscenes(tmp_path_factory.mktemp("tiny"))
    return NuScenesConfig(
        root=root,
        version="v1.0-mini",
        training_split="mini_train",
        evaluation_split="mini_train",
        image_size=(45, 80),
        index_dir=tmp_path_factory.mktemp("index"),
        previous=PreviousKeyFrame(training=(1, 1), evaluation=1),
    )


def test_earlier_cameras_come_second_and_are_half_a_second_old(config: NuScenesConfig) -> None:
    scene = config.evaluation_set()[1]
    assert scene.images.shape[1] == 12
    now, earlier = scene.rig.timestamps.chunk(2, dim=1)
    torch.testing.assert_close(now - earlier, torch.full((1, 6), 0.5, dtype=torch.float64))
    before = config.evaluation_set()[0]
    assert torch.equal(scene.images[:, 6:], before.images[:, :6])


def test_earlier_cameras_see_the_same_world_points(config: NuScenesConfig) -> None:
    index = config.open_index()
    rows = index.rows("mini_train")
    scene, before = config.evaluation_set()[1], config.evaluation_set()[0]
    now, then = (
        torch.from_numpy(index.global_from_ego[row] @ index.ego_from_ref[row])
        for row in (rows[1], rows[0])
    )
    points = torch.randn(1, 50, 3, dtype=torch.float64) * 20
    in_past = transform_points(then.inverse() @ now, points)
    joined = scene.rig.project(points.float())
    alone = before.rig.project(in_past.float())
    torch.testing.assert_close(joined.depth[:, 6:], alone.depth[:, :6], atol=1e-3, rtol=1e-4)
    assert (joined.depth[:, :6] - alone.depth[:, :6]).abs().max() > 0.1  # the ego vehicle moved


def test_the_first_frame_repeats_itself(config: NuScenesConfig) -> None:
    scene = config.evaluation_set()[0]
    assert torch.equal(scene.images[:, :6], scene.images[:, 6:])
    torch.testing.assert_close(scene.rig.camera_from_ref[:, :6], scene.rig.camera_from_ref[:, 6:])
    now, earlier = scene.rig.timestamps.chunk(2, dim=1)
    torch.testing.assert_close(now - earlier, torch.full((1, 6), 1.245, dtype=torch.float64))


def test_previous_rows_never_leave_the_scene(config: NuScenesConfig) -> None:
    index = config.open_index()
    starts = [previous_row(index, row, 99) for row in range(len(index))]
    assert all(index.sample_scenes[a] == index.sample_scenes[b] for b, a in enumerate(starts))
    assert previous_row(index, 2, 1) == 1


def test_training_draws_the_distance_within_its_limits() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = {PreviousKeyFrame(training=(2, 4)).steps(generator) for _ in range(60)}
    assert steps == {2, 3, 4}
    assert PreviousKeyFrame(evaluation=3).steps(None) == 3
    with pytest.raises(ValueError, match="at least one step back"):
        PreviousKeyFrame(training=(0, 2))
