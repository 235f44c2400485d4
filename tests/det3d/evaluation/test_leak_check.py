from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from det3d.data.nuscenes import NuScenesConfig
from det3d.evaluation.leak_check import WrongCameras, check_leaks, format_leaks
from det3d.systems.detr3d import DETR3DConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.checkpoints.files import Origin, export_weights
from detr2d.config import Experiment, TrainConfig, UserError, to_json
from tests.helpers.rigs import random_scene
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes
from tests.helpers.toy_experiment import make_experiment


def test_wrong_cameras_keep_the_images_and_turn_the_calibration() -> None:
    scene = random_scene()
    (turned,) = WrongCameras([scene])
    assert torch.equal(turned.images, scene.images)
    assert torch.equal(turned.rig.camera_from_ref[0, 0], scene.rig.camera_from_ref[0, 1])
    assert torch.equal(turned.rig.camera_from_ref[0, 5], scene.rig.camera_from_ref[0, 0])


def test_three_scores_are_told(tmp_path: Path) -> None:
    experiment = Experiment(
        system=DETR3DConfig(
            backbone=ResNetConfig(depth=10, widths=(8, 8, 8, 8), norm="batch"),
            channels=16, num_queries=5, num_layers=1, heads=2, hidden=16, rig="free",
        ),
        data=NuScenesConfig(
            root=write_tiny_nuscenes(tmp_path / "db"), version="v1.0-mini",
            training_split="mini_train", evaluation_split="mini_train", image_size=(45, 80),
            index_dir=tmp_path / "index",
        ),
        train=TrainConfig(workers=0),
        work_dir=tmp_path,
    )  # fmt: skip
    classes = experiment.data.class_names()
    weights = tmp_path / "model.safetensors"
    state = experiment.system.build(classes).state_dict()
    export_weights(weights, state, Origin(to_json(experiment), classes))
    scores = check_leaks(experiment, weights, tmp_path / "leaks")
    assert list(scores) == [
        "trained weights",
        "untrained weights",
        "calibration of the next camera",
    ]
    assert all(0 <= score < 0.05 for score in scores.values())
    assert (
        format_leaks(scores).splitlines()[1].startswith("untrained weights               mAP 0.0")
    )


def test_other_data_is_refused(tmp_path: Path) -> None:
    experiment = replace(make_experiment(tmp_path))
    with pytest.raises(UserError, match="nuScenes-format"):
        check_leaks(experiment, tmp_path / "model.safetensors", tmp_path)
