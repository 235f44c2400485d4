"""Images between key frames: read from hand-made tables, chosen by time, in the present frame."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyquaternion import Quaternion

from det3d.cameras import CameraRig
from det3d.data.history import PreviousSweep
from det3d.data.nuscenes import CAMERAS, NuScenesConfig
from det3d.data.sweeps import open_sweeps
from detr2d.data.image_files import read_image
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

SCENES = {"scene-0061": 5, "scene-0553": 2, "scene-0103": 1}
STEP = 0.5 / 6  # seconds between images


def make_config(folder: Path, sweeps: int = 5, **settings: Any) -> NuScenesConfig:
    root = write_tiny_nuscenes(folder / "db", scenes=SCENES, sweeps=sweeps, **settings)
    return NuScenesConfig(
        root=root,
        version="v1.0-mini",
        training_split="mini_train",
        evaluation_split="mini_train",
        image_size=(45, 80),
        index_dir=folder / "index",
        previous=PreviousSweep(),
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> NuScenesConfig:
    return make_config(tmp_path_factory.mktemp("sweeps"))


@pytest.fixture(scope="module")
def key_frames_only(tmp_path_factory: pytest.TempPathFactory) -> NuScenesConfig:
    return make_config(tmp_path_factory.mktemp("keys"), sweeps=0)


def age(rig: CameraRig) -> torch.Tensor:
    """Seconds (6,) between the present and the earlier image of each camera."""
    now, earlier = rig.timestamps[0].chunk(2)
    return now - earlier


def rows_of(config: NuScenesConfig, table: str) -> list[dict[str, Any]]:
    return json.loads((config.root / config.version / f"{table}.json").read_text())


def test_evaluation_takes_the_image_of_fifteen_steps_before(config: NuScenesConfig) -> None:
    scene = config.evaluation_set()[4]
    torch.testing.assert_close(age(scene.rig), torch.full((6,), 1.25).double(), atol=2e-6, rtol=0)
    now = round(float(scene.rig.timestamps[0, 0]) * 1e6)
    (row,) = [
        row
        for row in rows_of(config, "sample_data")
        if abs(row["timestamp"] - now + 1_250_000) < 9 and "/CAM_FRONT/" in row["filename"]
    ]
    assert not row["is_key_frame"]
    image = read_image(config.root / row["filename"])
    assert torch.equal(scene.images[0, 6], image)


def test_earlier_cameras_stand_where_the_tables_put_them(config: NuScenesConfig) -> None:
    scene = config.evaluation_set()[4]
    poses = {row["token"]: matrix(row) for row in rows_of(config, "ego_pose")}
    mounts = {row["token"]: matrix(row) for row in rows_of(config, "calibrated_sensor")}
    data = rows_of(config, "sample_data")
    lidar = next(
        row
        for row in data
        if row["sample_token"] == scene.tokens[0] and "LIDAR_TOP" in row["filename"]
    )
    global_from_ref = poses[lidar["ego_pose_token"]] @ mounts[lidar["calibrated_sensor_token"]]
    for view, camera in enumerate(CAMERAS):
        time = round(float(scene.rig.timestamps[0, 6 + view]) * 1e6)
        (row,) = [
            row
            for row in data
            if abs(row["timestamp"] - time) < 2 and f"/{camera}/" in row["filename"]
        ]
        camera_pose = poses[row["ego_pose_token"]] @ mounts[row["calibrated_sensor_token"]]
        expected = torch.from_numpy(np.linalg.inv(camera_pose) @ global_from_ref).float()
        found = scene.rig.camera_from_ref[0, 6 + view]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def matrix(row: dict[str, Any]) -> np.ndarray:
    """The transform of a row of ego_pose or calibrated_sensor, by pyquaternion."""
    transform = Quaternion(row["rotation"]).transformation_matrix
    transform[:3, 3] = row["translation"]
    return transform


def test_a_young_scene_is_looked_at_from_its_first_key_frame(config: NuScenesConfig) -> None:
    second = config.evaluation_set()[1]
    torch.testing.assert_close(age(second.rig), torch.full((6,), 0.5).double(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("item", [0, 5], ids=["first scene", "second scene"])
def test_the_first_key_frame_repeats_itself(config: NuScenesConfig, item: int) -> None:
    scene = config.evaluation_set()[item]  # sweeps from before it are in the tables
    assert torch.equal(scene.images[:, :6], scene.images[:, 6:])
    torch.testing.assert_close(age(scene.rig), torch.full((6,), 1.245).double())


def test_without_sweeps_the_nearest_key_frame_is_taken(key_frames_only: NuScenesConfig) -> None:
    scenes = key_frames_only.evaluation_set()
    ages = [round(float(age(scenes[item].rig).mean()), 3) for item in range(5)]
    assert ages == [1.245, 0.5, 1.0, 1.0, 1.0]  # 1.0 and 1.5 are equally near: the later one
    far = replace(key_frames_only, previous=PreviousSweep(evaluation=1.3)).evaluation_set()[4]
    torch.testing.assert_close(age(far.rig), torch.full((6,), 1.5).double())


def test_training_draws_images_within_its_limits(config: NuScenesConfig) -> None:
    narrow = replace(config, previous=PreviousSweep(training=(0.2, 0.6)))
    dataset, seen = narrow.training_set(seed=3), set()
    for epoch in range(30):
        dataset.set_epoch(epoch)
        steps = age(dataset[4].rig) / STEP
        assert (steps - steps.round()).abs().max() < 1e-3
        seen |= set(steps.round().int().tolist())
    assert seen <= set(range(2, 8)) and len(seen) > 3
    dataset.set_epoch(1)
    again = narrow.training_set(seed=3)
    again.set_epoch(1)
    assert torch.equal(dataset[4].rig.timestamps, again[4].rig.timestamps)


def test_a_camera_without_an_earlier_image_is_absent_then(tmp_path: Path) -> None:
    missing = {0: ("CAM_BACK",), 1: ("CAM_BACK", "CAM_FRONT")}
    scenes = make_config(tmp_path, missing_cameras=missing).evaluation_set()
    front, back = CAMERAS.index("CAM_FRONT"), CAMERAS.index("CAM_BACK")
    second, third = scenes[1].rig.present[0], scenes[2].rig.present[0]
    assert not second[front] and second[6 + front] and not second[6 + back]
    assert third[back] and third[6 + back]  # sweeps before its own first key frame are there
    assert not scenes[0].images[0, back].any() and not scenes[1].images[0, 6 + back].any()


def test_sweeps_are_indexed_once_and_shared(config: NuScenesConfig) -> None:
    index = open_sweeps(config.root, config.version, config.index_dir)
    assert len(index) == 6 * 5 * sum(SCENES.values())
    times = index.times[index.rows(0, 2)]
    assert len(times) == 25 and (np.diff(times) > 0).all()
    again = pickle.loads(pickle.dumps(index))
    assert again.directory == index.directory and np.array_equal(again.poses, index.poses)


def test_a_database_without_sweeps_has_an_empty_index(key_frames_only: NuScenesConfig) -> None:
    config = key_frames_only
    index = open_sweeps(config.root, config.version, config.index_dir)
    assert len(index) == 0 and len(index.rows(1, 3)) == 0


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    for file in (config.root / "sweeps" / "CAM_FRONT").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"before sample \w+, camera CAM_FRONT.*sweeps/"):
        config.evaluation_set()[4]


@pytest.mark.parametrize("wrong", [{"training": (0.0, 1.0)}, {"evaluation": -1.0}])
def test_times_that_are_not_past_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="back in time by more than 0 s"):
        PreviousSweep(**wrong)
