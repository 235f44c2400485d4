"""Official result files: form, tokens, and the convention of boxes told from evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from det3d.data.nuscenes import NuScenesConfig
from det3d.data.nuscenes_index import NuScenesIndex
from det3d.doctor.submissions import examine_submission
from det3d.results.format import Objects
from det3d.results.nuscenes import database_frame, to_official, write_submission
from detr2d.doctor.findings import Finding
from tests.helpers.findings import alarms, edit, kinds
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

Change = Callable[[dict[str, list[dict[str, Any]]]], Any]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> NuScenesConfig:
    folder = tmp_path_factory.mktemp("tiny")
    root = write_tiny_nuscenes(folder / "db")
    return NuScenesConfig(root=root, version="v1.0-mini", index_dir=folder / "index")


@pytest.fixture(scope="module")
def index(data: NuScenesConfig) -> NuScenesIndex:
    return data.open_index()


@pytest.fixture(scope="module")
def perfect(index: NuScenesIndex) -> dict[str, list[dict[str, Any]]]:
    return submission_in(index, lambda row: index.global_from_ego[row] @ index.ego_from_ref[row])


def submission_in(
    index: NuScenesIndex, pose: Callable[[int], np.ndarray]
) -> dict[str, list[dict[str, Any]]]:
    """The ground truth as detections, written in any frame."""
    boxes = {}
    for row in range(len(index)):
        frame = database_frame(index, row, None)
        truth = frame.ground_truth
        assert truth is not None
        scored = Objects(truth.boxes, truth.labels, np.linspace(0.9, 0.3, len(truth)))
        boxes[frame.token] = to_official(scored, frame.token, pose(row))
    return boxes


@pytest.fixture
def path(perfect: dict[str, Any], tmp_path: Path) -> Path:
    write_submission(tmp_path / "results.json", perfect)
    return tmp_path / "results.json"


def every(**changes: Callable[[Any], Any]) -> Change:
    def change(results: dict[str, list[dict[str, Any]]]) -> None:
        for box in (box for boxes in results.values() for box in boxes):
            box.update({key: function(box[key]) for key, function in changes.items()})

    return change


def first(**changes: Any) -> Change:
    return lambda results: next(iter(results.values()))[0].update(changes)


def turned(degrees: float) -> Callable[[list[float]], list[float]]:
    cos, sin = math.cos(math.radians(degrees / 2)), math.sin(math.radians(degrees / 2))
    return lambda q: [q[0] * cos - q[3] * sin, q[1], q[2], q[3] * cos + q[0] * sin]


def lower(results: dict[str, list[dict[str, Any]]]) -> None:
    for box in (box for boxes in results.values() for box in boxes):
        box["translation"][2] -= box["size"][2] / 2


def crowd(results: dict[str, list[dict[str, Any]]]) -> None:
    boxes = next(iter(results.values()))
    barrier = next(box for box in boxes if box["detection_name"] == "barrier")
    boxes += [{**barrier, "detection_score": 1e-4 * number} for number in range(501)]


def drop(results: dict[str, Any]) -> None:
    del results[next(iter(results))]


FAULTS: dict[str, tuple[Change, str]] = {
    "length first": (every(size=lambda s: [s[1], s[0], s[2]]), "size-order"),
    "logarithms": (every(size=lambda s: [0.2 * v for v in s]), "size-unit"),
    "a quarter turn": (every(rotation=turned(90)), "yaw"),
    "half a turn": (every(rotation=turned(180)), "yaw"),
    "mirrored": (every(rotation=lambda q: [q[0], -q[1], -q[2], -q[3]]), "yaw"),
    "velocities mirrored": (every(velocity=lambda v: [-v[0], -v[1]]), "velocity"),
    "lower faces": (lower, "box-height"),
    "logits": (every(detection_score=lambda s: 10 * s), "score-range"),
    "one score": (every(detection_score=lambda s: 0.5), "score-constant"),
    "flat": (first(size=[0, 1, 1]), "degenerate-box"),
    "no quaternion": (first(rotation=[0, 0, 0, 2]), "no-rotation"),
    "zero quaternion": (first(rotation=[0, 0, 0, 0]), "no-rotation"),
    "unknown class": (first(detection_name="cat"), "unknown-category"),
    "unknown attribute": (first(attribute_name="cat"), "unknown-attribute"),
    "another token": (first(sample_token="x"), "token-mismatch"),
    "not finite": (first(translation=[float("nan"), 0, 0]), "malformed-row"),
    "an infinite velocity": (first(velocity=[float("inf"), 0]), "malformed-row"),
    "no score": (lambda r: next(iter(r.values()))[0].pop("detection_score"), "malformed-row"),
    "no list": (lambda r: r.update({next(iter(r)): 5}), "malformed-row"),
    "an unknown sample": (lambda r: r.update(x=[]), "token-unknown"),
    "a missing sample": (drop, "token-missing"),
    "too many": (crowd, "too-many-boxes"),
    "a copy": (
        lambda r: next(iter(r.values())).append(next(iter(r.values()))[0]),
        "duplicate-object",
    ),
    "nothing": (lambda r: r.update({t: [] for t in r}), "no-boxes"),
}


def test_the_ground_truth_has_no_alarm_and_its_convention_is_told(
    path: Path, data: NuScenesConfig, index: NuScenesIndex
) -> None:
    found = examine_submission(path, index, data.root)
    assert alarms(found) == set()
    assert "box-convention" in kinds(found)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(
    name: str, path: Path, data: NuScenesConfig, index: NuScenesIndex
) -> None:
    change, kind = FAULTS[name]
    edit(path, lambda content: change(content["results"]) and None)
    assert alarms(examine_submission(path, index, data.root)) == {kind}


@pytest.mark.parametrize("frame", ["car", "lidar"])
def test_another_frame_is_told_by_where_boxes_meet_objects(
    frame: str, path: Path, data: NuScenesConfig, index: NuScenesIndex
) -> None:
    poses = index.ego_from_ref if frame == "car" else np.eye(4)[None].repeat(len(index), 0)
    write_submission(path, submission_in(index, lambda row: poses[row]))
    found = [f for f in examine_submission(path, index, data.root) if f.severity == "error"]
    assert [f.kind for f in found] == ["box-frame"]
    assert f"in the {frame}'s frame" in found[0].message


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda text: text.replace('{"meta"', '{"mata"'), "no-meta"),
        (lambda text: text[:-20], "file-unreadable"),
        (lambda text: '{"meta": {}, "results": []}', "no-submission"),
        (lambda text: '{"results": {"t": [], "t": []}}', "token-twice"),
    ],
)
def test_a_fault_in_the_form_is_found(change: Callable[[str], str], kind: str, path: Path) -> None:
    path.write_text(change(path.read_text()))
    assert kind in alarms(examine_submission(path, None, None))


def test_what_only_the_reader_refuses_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise ValueError(f"{path} is of the wrong colour")

    monkeypatch.setattr("det3d.doctor.submissions.read_submission", refuse)
    said = [f.message for f in examine_submission(path, None, None) if f.kind == "refused"]
    assert said == [f"the reader refuses it: {path} is of the wrong colour"]


def test_sizes_are_judged_without_a_database_too(path: Path) -> None:
    assert alarms(examine_submission(path, None, None)) == set()
    edit(path, lambda c: every(size=lambda s: [s[1], s[0], s[2]])(c["results"]))
    assert alarms(examine_submission(path, None, None)) == {"size-order"}


def test_the_evidence_is_said(path: Path, data: NuScenesConfig, index: NuScenesIndex) -> None:
    edit(path, lambda c: every(rotation=turned(90))(c["results"]))
    said: list[Finding] = [f for f in examine_submission(path, index, data.root) if f.kind == "yaw"]
    assert "100% as yaw - pi/2" in said[0].message
    assert any("mean orientation error 1.57" in finding.message for finding in said)


@pytest.mark.real
@pytest.mark.parametrize("name", ["pred_gt.json", "pred_noisy.json"])
def test_real_predictions_have_no_alarm(name: str, real: Path, tmp_path: Path) -> None:
    root = real / "nuscenes_frame"
    config = NuScenesConfig(root=root, version="v1.0-mini", index_dir=tmp_path)
    found = examine_submission(root / "eval_ref/mini_train" / name, config.open_index(), root)
    assert alarms(found) == set()
