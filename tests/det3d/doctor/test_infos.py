"""Info files of mmdet3d: which convention, and nothing that they name is ever run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from det3d.doctor.infos import examine_infos
from det3d.doctor.pickled import read_plain_pickle
from tests.helpers.findings import alarms, kinds

SIZES = {  # length, width, height in metres, by hand: what such things measure
    "car": (4.5, 1.9, 1.7), "truck": (7.0, 2.5, 2.9), "bus": (11.5, 2.9, 3.4),
    "bicycle": (1.8, 0.6, 1.3), "motorcycle": (2.1, 0.8, 1.5), "pedestrian": (0.7, 0.6, 1.75),
    "barrier": (0.5, 2.4, 1.0),
}  # fmt: skip
NAMES = ("car", "truck", "bus", "bicycle", "car", "motorcycle", "pedestrian", "barrier")


def entry(token: str = "t") -> dict[str, Any]:
    """Moving vehicles in the convention from 1.0 on, as arrays."""
    yaws = np.linspace(-2.5, 2.5, len(NAMES))
    sizes = np.array([SIZES[name] for name in NAMES])
    places = np.stack([10 * np.cos(yaws), 10 * np.sin(yaws), sizes[:, 2] / 2 - 1.8], 1)
    return {
        "token": token,
        "gt_boxes": np.hstack([places, sizes, yaws[:, None]]),
        "gt_names": np.array(NAMES),
        "gt_velocity": 5 * np.stack([np.cos(yaws), np.sin(yaws)], 1),
        "cams": {
            "CAM_FRONT": {
                "sensor2lidar_rotation": np.eye(3),
                "sensor2lidar_translation": np.zeros(3),
                "cam_intrinsic": np.array([[800.0, 0, 400], [0, 800, 200], [0, 0, 1]]),
            }
        },
    }


def as_before(info: dict[str, Any]) -> None:
    boxes = info["gt_boxes"]
    boxes[:, [3, 4]] = boxes[:, [4, 3]]
    boxes[:, 6] = -boxes[:, 6] - np.pi / 2


def write(path: Path, *infos: dict[str, Any]) -> Path:
    path.write_bytes(pickle.dumps({"infos": list(infos), "metadata": {"version": "v1.0-mini"}}))
    return path


@pytest.mark.parametrize(("old", "words"), [(False, "from 1.0"), (True, "before 1.0")])
def test_both_conventions_are_told_apart(old: bool, words: str, tmp_path: Path) -> None:
    info = entry()
    if old:
        as_before(info)
    found = examine_infos(write(tmp_path / "infos.pkl", info))
    assert alarms(found) == set()
    said = next(f.message for f in found if f.kind == "box-convention")
    assert words in said and "z is the centre" in said


def mix(info: dict[str, Any]) -> None:
    info["gt_boxes"][:, 6] += np.pi / 2


def stretch(info: dict[str, Any]) -> None:
    info["cams"]["CAM_FRONT"]["sensor2lidar_rotation"] = 2 * np.eye(3)


def transpose(info: dict[str, Any]) -> None:
    camera = info["cams"]["CAM_FRONT"]
    camera["cam_intrinsic"] = camera["cam_intrinsic"].T


def forget(info: dict[str, Any]) -> None:
    del info["gt_names"]


def poison(info: dict[str, Any]) -> None:
    info["gt_boxes"][0, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (mix, "box-convention"),
        (stretch, "no-rotation"),
        (transpose, "intrinsics-form"),
        (poison, "malformed-row"),
        (forget, "malformed-row"),
        (lambda info: info["gt_boxes"].__imul__(0.3), "size-unit"),
    ],
)
def test_a_planted_fault_is_found(change: Any, kind: str, tmp_path: Path) -> None:
    infos = entry(), entry("other")
    for info in infos:
        change(info)
    assert kind in alarms(examine_infos(write(tmp_path / "infos.pkl", *infos)))


def lens(value: Any) -> Any:
    return lambda info: info["cams"]["CAM_FRONT"].update(cam_intrinsic=value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: i.update(gt_names=NAMES[:3]), "must be as many, got 8, 3 and 8"),
        (lambda i: i.update(gt_velocity=np.zeros((2, 2))), "must be as many, got 8, 8 and 2"),
        (lambda i: i.update(gt_boxes=np.zeros((7, 9))), r"must have shape (N, 7), got (7, 9)"),
        (lens(np.full((3, 3), np.nan)), "cam_intrinsic of CAM_FRONT has numbers that are not"),
        (lens(np.diag([np.inf, 1, 1])), "cam_intrinsic of CAM_FRONT has numbers that are not"),
        (lens(np.ones(9)), "cam_intrinsic of CAM_FRONT must have shape (3, 3), got (9,)"),
        (
            lambda i: i["cams"]["CAM_FRONT"].update(sensor2lidar_rotation=[1, 0, 0, 0]),
            "sensor2lidar_rotation of CAM_FRONT must have shape (3, 3), got (4,)",
        ),
        (poison, "gt_boxes has numbers that are not finite"),
    ],
)
def test_a_malformed_entry_is_named_and_the_others_are_judged(
    change: Any, words: str, tmp_path: Path
) -> None:
    broken = entry("other")
    change(broken)
    found = examine_infos(write(tmp_path / "infos.pkl", entry(), broken))
    assert alarms(found) == {"malformed-row"} and "box-convention" in kinds(found)
    said = next(f.message for f in found if f.kind == "malformed-row")
    assert "entry 1: " in said and words[:60] in said


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"infos": []}, "empty-list"),
        ({"infos": 5}, "refused"),
        ({"data_list": [{"instances": []}], "metainfo": {"categories": 5}}, "refused"),
        ({"data_list": [{"instances": [], "images": {"C": {"cam2img": [1, 2]}}}]}, "malformed-row"),
    ],
)
def test_a_malformed_file_is_found(content: Any, kind: str, tmp_path: Path) -> None:
    (tmp_path / "infos.json").write_text(json.dumps(content))
    assert kind in alarms(examine_infos(tmp_path / "infos.json"))


def test_a_token_twice_is_found(tmp_path: Path) -> None:
    assert alarms(examine_infos(write(tmp_path / "infos.pkl", entry(), entry()))) == {"token-twice"}


class Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "made"
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps({"infos": [Trap(str(target))]}))
    with pytest.raises(ValueError, match=r"trap\.pkl is not read: it would run \w+\.mkdir"):
        read_plain_pickle(tmp_path / "trap.pkl")
    assert not target.exists()
    assert alarms(examine_infos(tmp_path / "trap.pkl")) == {"refused"}


@pytest.mark.real
def test_the_real_info_is_of_the_newer_convention(real: Path, tmp_path: Path) -> None:
    path = real / "nuscenes_frame/info.json"
    found = examine_infos(path)
    assert alarms(found) == set() and "box-convention" in kinds(found)
    content = json.loads(path.read_text())
    for instance in content["instances"]:
        box = instance["bbox_3d"]
        box[3], box[4], box[6] = box[4], box[3], -box[6] - np.pi / 2
    (tmp_path / "old.json").write_text(json.dumps(content))
    said = [f.message for f in examine_infos(tmp_path / "old.json") if f.kind == "box-convention"]
    assert "before 1.0" in said[0]
