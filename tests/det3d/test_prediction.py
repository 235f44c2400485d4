"""A rig file is seen as a database is, by the same model, with the same boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from det3d.boxes import transform_boxes
from det3d.data.history import PreviousKeyFrame
from det3d.data.nuscenes import NuScenesConfig
from det3d.geometry import invert_transform
from det3d.prediction import model_cameras, predict_results
from det3d.results.convert import convert
from det3d.results.format import Results, read_results, write_results
from det3d.systems.detr3d import DETR3DConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.checkpoints.files import Origin, export_weights
from detr2d.config import Experiment, to_json
from detr2d.inference import load_model
from tests.helpers.result_frames import CLASSES, make_frame, write_result_file
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

Made = tuple[Experiment, Path, Path]


@pytest.fixture(scope="module", params=["lidar", "ego"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An experiment in either frame, weights, and a database as a file of cameras."""
    folder = tmp_path_factory.mktemp(request.param)
    root = write_tiny_nuscenes(folder / "db", missing_cameras={5: ("CAM_BACK",)})
    experiment = Experiment(
        system=DETR3DConfig(
            backbone=ResNetConfig(depth=18), channels=16, num_queries=12, num_layers=2, heads=2,
            hidden=16, rig="free", num_detections=8,
        ),
        data=NuScenesConfig(
            root=root, version="v1.0-mini", evaluation_split="mini_val", image_size=(40, 72),
            ref=request.param, index_dir=folder / "index", size_divisor=16,
        ),
    )  # fmt: skip
    torch.manual_seed(0)
    classes = experiment.data.class_names()
    model = experiment.system.build(classes)
    for parameter in model.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    weights = folder / "model.safetensors"
    export_weights(weights, model.state_dict(), Origin(to_json(experiment), classes))
    rig, index = folder / "rig.json", folder / "index"
    convert(None, rig, root=root, version="v1.0-mini", select="mini_val", index_dir=index)
    write_results(rig, bare(read_results(rig)))
    return experiment, weights, rig


def bare(results: Results) -> Results:
    """Cameras and images alone, in another order, without classes."""
    frames = [
        replace(f, ground_truth=None, lidar=None, cameras=f.cameras[::-1]) for f in results.frames
    ]
    return replace(results, classes=(), frames=tuple(frames))


def test_a_rig_file_gives_the_boxes_of_the_database(made: Made, tmp_path: Path) -> None:
    experiment, weights, rig = made
    written = read_results(predict_results(experiment, weights, rig, tmp_path, score=0.0))
    assert written.names == experiment.data.class_names()
    dataset, model = experiment.data.evaluation_set(), load_model(experiment, weights)
    for item, frame in enumerate(written.frames):
        with torch.inference_mode():
            found = experiment.system.postprocess(model(dataset[item]))[0]
        ref_from_model = torch.eye(4, dtype=torch.float64)
        if experiment.data.ref == "ego":
            ref_from_model = invert_transform(torch.tensor(frame.ego_from_ref))
        expected = transform_boxes(ref_from_model, found.boxes.double())
        order = found.scores.argsort(descending=True, stable=True)
        assert frame.token == dataset[item].tokens[0]
        np.testing.assert_allclose(
            frame.detections.scores, found.scores[order].double(), rtol=0, atol=1e-4
        )
        np.testing.assert_allclose(frame.detections.boxes, expected[order], rtol=1e-3, atol=1e-2)


def test_only_detections_of_the_score_are_written(made: Made, tmp_path: Path) -> None:
    experiment, weights, rig = made
    all_of_them = read_results(predict_results(experiment, weights, rig, tmp_path, score=0.0))
    scores = all_of_them.frames[0].detections.scores
    some = read_results(
        predict_results(experiment, weights, rig, tmp_path, score=float(scores[3]) + 1e-4)
    )
    assert 0 < len(some.frames[0].detections) <= 3


def test_any_rig_will_do(made: Made, tmp_path: Path) -> None:
    experiment, weights, _ = made
    frame = make_frame(num_cameras=4, detections=None, ground_truth=None)
    path = write_result_file(tmp_path, frame)
    write_results(path, replace(read_results(path), forward=np.pi / 2))
    written = read_results(predict_results(experiment, weights, path, tmp_path / "o", score=0.0))
    assert len(written.frames[0].detections) == 8
    assert [c.name for c in written.frames[0].cameras] == [c.name for c in frame.cameras]


def test_what_does_not_suit_the_model_is_said(made: Made, tmp_path: Path) -> None:
    experiment, weights, rig = made
    path = write_result_file(tmp_path, make_frame())
    write_results(path, replace(read_results(path), forward=np.pi / 2))
    with pytest.raises(ValueError, match="has ground truth of the classes car, pedestrian, cone"):
        predict_results(experiment, weights, path, tmp_path, score=0.0)
    past = replace(experiment, data=replace(experiment.data, previous=PreviousKeyFrame()))
    with pytest.raises(ValueError, match=r"data\.previous\) need a database"):
        predict_results(past, weights, rig, tmp_path, score=0.0)
    if experiment.data.ref == "lidar":
        write_results(path, replace(read_results(rig), forward=0.0))
        with pytest.raises(ValueError, match=r"forward is 0\.00 in ref"):
            predict_results(experiment, weights, path, tmp_path, score=0.0)


def test_cameras_that_the_config_does_not_name_are_not_left_out_silently(tmp_path: Path) -> None:
    frame = make_frame()
    cameras = tuple(
        replace(camera, name=name)
        for camera, name in zip(frame.cameras[:2], ("CAM_FRONT", "mine"), strict=True)
    )
    results = Results(CLASSES, (replace(frame, cameras=cameras),), tmp_path)
    with pytest.raises(ValueError, match=r"rig\.json has the cameras mine, which data\.cameras"):
        model_cameras(results, ("CAM_FRONT", "CAM_BACK"), Path("rig.json"))
    assert model_cameras(results, ("CAM_FRONT", "mine", "CAM_BACK"), Path("x"))[2] == "CAM_BACK"
    assert model_cameras(results, ("other",), Path("x")) == ("CAM_FRONT", "mine")
