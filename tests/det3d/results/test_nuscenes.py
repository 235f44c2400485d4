import json
from pathlib import Path

import numpy as np
import pytest

from det3d.data.nuscenes import NuScenesConfig
from det3d.data.nuscenes_index import NuScenesIndex
from det3d.results.convert import convert
from det3d.results.format import read_results
from det3d.results.nuscenes import database_results, forward_yaw, from_official, to_official
from tests.helpers.result_frames import car, make_objects, rigid
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

FRAME = rigid(0.04, 2.0, [600.0, 1600.0, 1.0])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> NuScenesConfig:
    folder = tmp_path_factory.mktemp("tiny")
    root = write_tiny_nuscenes(folder / "db", missing_cameras={1: ("CAM_BACK",)})
    return NuScenesConfig(root=root, version="v1.0-mini", index_dir=folder / "index")


@pytest.fixture(scope="module")
def index(data: NuScenesConfig) -> NuScenesIndex:
    return data.open_index()


def test_official_boxes_and_back() -> None:
    objects = make_objects(car(3, 4, 0.4), car(-20, 1, -3.0), labels=[0, 8], scores=[0.9, 0.3])
    found = from_official(to_official(objects, "t", FRAME), FRAME)
    np.testing.assert_allclose(found.boxes[:, :6], objects.boxes[:, :6], atol=1e-9)
    np.testing.assert_allclose(found.boxes[:, 6:], objects.boxes[:, 6:], atol=3e-3)  # tilt
    assert found.labels.tolist() == [0, 8]
    assert found.scores.tolist() == [0.9, 0.3]
    assert found.attributes is None


def test_attributes_that_are_not_the_usual_ones_are_kept() -> None:
    boxes = to_official(make_objects(car(3, 4), scores=[0.9]), "t", FRAME)
    boxes[0]["attribute_name"] = "vehicle.stopped"
    found = from_official(boxes, FRAME)
    assert found.attributes == ("vehicle.stopped",)
    assert to_official(found, "t", FRAME)[0]["attribute_name"] == "vehicle.stopped"


def test_ground_truth_is_no_submission() -> None:
    with pytest.raises(ValueError, match="objects without scores are no detections"):
        to_official(make_objects(car(3, 4)), "t", FRAME)


def test_a_database_becomes_frames_with_the_rig_and_the_seen_objects(
    data: NuScenesConfig, index: NuScenesIndex
) -> None:
    results = database_results(index, data.root, range(len(index)))
    frames = results.frames
    assert [len(frame.cameras) for frame in frames] == [6, 5, 6, 6, 6, 6, 6]
    assert [len(frame.ground_truth) for frame in frames][:2] == [9, 10]  # a cone without points
    assert all((results.image_root / c.image).is_file() for f in frames for c in f.cameras)
    assert (results.image_root / frames[0].lidar).is_file()
    assert {frame.scene for frame in frames} == {"scene-0061", "scene-0553", "scene-0103"}


def test_files_are_converted_there_and_back(
    data: NuScenesConfig, index: NuScenesIndex, tmp_path: Path
) -> None:
    place = {"root": data.root, "version": "v1.0-mini", "index_dir": data.index_dir}
    frames = database_results(index, data.root, [0, 3]).frames
    boxes = {
        f.token: to_official(make_objects(car(3, 4), scores=[0.9]), f.token, f.global_from_ref)
        for f in frames
    }
    (tmp_path / "in.json").write_text(json.dumps({"meta": {}, "results": boxes}))
    there = tmp_path / "there.json"
    assert convert(tmp_path / "in.json", there, select=None, **place) == 2
    assert [frame.token for frame in read_results(there).frames] == list(boxes)
    assert convert(there, tmp_path / "back.json", select=None, **(place | {"root": None})) == 2
    back = json.loads((tmp_path / "back.json").read_text())
    assert back["meta"]["use_camera"] is True
    for token, found in back["results"].items():
        np.testing.assert_allclose(
            found[0]["translation"], boxes[token][0]["translation"], atol=1e-3
        )
        np.testing.assert_allclose(found[0]["rotation"], boxes[token][0]["rotation"], atol=1e-3)


def test_ground_truth_of_one_scene(data: NuScenesConfig, tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    place = {"root": data.root, "version": "v1.0-mini", "index_dir": data.index_dir}
    assert convert(None, path, select="scene-0553", **place) == 2
    assert read_results(path).frames[0].detections is None


@pytest.mark.parametrize(
    ("source", "root", "says"),
    [("none.json", True, "none.json is missing"), (None, False, "--root is missing")],
)
def test_mistakes_are_named(
    data: NuScenesConfig, tmp_path: Path, source: str | None, root: bool, says: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        convert(
            None if source is None else Path(source),
            tmp_path / "x.json",
            root=data.root if root else None,
            version="v1.0-mini",
            select=None,
            index_dir=data.index_dir,
        )


def test_the_car_looks_along_y_of_the_lidar_and_along_x_of_its_own_frame() -> None:
    lidar = np.array([[0.002, 0.9997, 0.0242], [-1.0, 0.0022, -0.0059], [-0.0059, -0.0242, 0.9997]])
    assert forward_yaw(lidar) == np.pi / 2
    assert forward_yaw(np.eye(4)) == 0
