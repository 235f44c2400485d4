"""Each fault planted in a small database is found as what it is, and nothing else is."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from det3d.data.toy_world import make_toy_nuscenes
from det3d.doctor.nuscenes import examine_database
from detr2d.doctor.findings import Finding
from tests.helpers.findings import alarms, edit, kinds
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

VERSION = "v1.0-mini"
Rows = list[dict[str, Any]]
Change = Callable[[Rows], Any]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_nuscenes(tmp_path_factory.mktemp("nuscenes") / "tiny")


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "tiny"))


def examine(root: Path) -> list[Finding]:
    return examine_database(root, VERSION)[0]


def plant(root: Path, table: str, change: Change) -> None:
    edit(root / VERSION / f"{table}.json", change)


def first(**changes: Any) -> Change:
    return lambda rows: rows[0].update(changes)


def camera(**changes: Callable[[Any], Any]) -> Change:
    """Change one camera's calibration."""

    def change(rows: Rows) -> None:
        row = [row for row in rows if row["camera_intrinsic"]][2]
        row.update({key: function(row[key]) for key, function in changes.items()})

    return change


def every(**changes: Callable[[Any], Any]) -> Change:
    def change(rows: Rows) -> None:
        for row in rows:
            row.update({key: function(row[key]) for key, function in changes.items()})

    return change


def lidar_row(rows: Rows) -> dict[str, Any]:
    return next(row for row in rows if "LIDAR_TOP" in row["filename"])


def image_row(rows: Rows) -> dict[str, Any]:
    return next(row for row in rows if "CAM_FRONT/" in row["filename"])


def turned(degrees: float) -> Callable[[list[float]], list[float]]:
    half = math.radians(degrees) / 2
    cos, sin = math.cos(half), math.sin(half)

    def turn(q: list[float]) -> list[float]:  # about the box's own z axis
        w, x, y, z = q
        return [w * cos - z * sin, x * cos + y * sin, y * cos - x * sin, z * cos + w * sin]

    return turn


def without_links(rows: Rows) -> None:
    linked = next(row for row in rows if row["next"])
    linked["next"] = ""


def scaled(matrix: list[list[float]]) -> list[list[float]]:
    return [[2 * value for value in row] for row in matrix[:2]] + matrix[2:]


def lower_boxes(rows: Rows) -> None:
    for row in rows:
        row["translation"][2] -= row["size"][2] / 2


def share_file(rows: Rows) -> None:
    back = next(row for row in rows if "CAM_BACK/" in row["filename"])
    back["filename"] = image_row(rows)["filename"]


def double_attributes(rows: Rows) -> None:
    rows[0]["attribute_tokens"] *= 2


def jump(rows: Rows) -> None:
    rows[0]["translation"][0] += 100


def walk(rows: Rows) -> None:
    tokens = [row["attribute_tokens"] for row in rows if row["attribute_tokens"]]
    rows[0]["attribute_tokens"] = next(other for other in tokens[::-1] if other != tokens[0])


def late(rows: Rows) -> None:
    image_row(rows)["timestamp"] -= 900_000


TABLE_FAULTS: dict[str, tuple[str, Change, str]] = {
    "a token twice": ("attribute", lambda r: r.append(r[0]), "duplicate-token"),
    "a category that is not there": ("instance", first(category_token="x"), "dangling-token"),
    "a pose that is not there": (
        "sample_data",
        lambda r: image_row(r).update(ego_pose_token="x"),
        "dangling-token",
    ),
    "an attribute that is not there": (
        "sample_annotation",
        first(attribute_tokens=["x"]),
        "dangling-token",
    ),
    "two attributes": ("sample_annotation", double_attributes, "several-attributes"),
    "a lost link": ("sample_annotation", without_links, "broken-chain"),
    "a lost link of samples": ("sample", without_links, "broken-chain"),
    "a lost link of files": ("sample_data", without_links, "broken-chain"),
    "a wrong count": ("instance", first(nbr_annotations=9), "broken-chain"),
    "a wrong end": (
        "scene",
        lambda r: r[0].update(last_sample_token=r[0]["first_sample_token"]),
        "broken-chain",
    ),
    "a number as text": ("sample_annotation", first(num_lidar_pts="5"), "malformed-row"),
    "a size of two": ("sample_annotation", first(size=[1, 2]), "malformed-row"),
    "a box that is not finite": (
        "sample_annotation",
        first(translation=[float("nan"), 1, 2]),
        "malformed-row",
    ),
    "a table that is no list": ("attribute", lambda r: {"rows": r}, "no-table"),
    "a flat box": (
        "sample_annotation",
        lambda r: r[0]["size"].__setitem__(1, 0.0),
        "degenerate-box",
    ),
    "sizes of length first": (
        "sample_annotation",
        every(size=lambda s: [s[1], s[0], s[2]]),
        "size-order",
    ),
    "sizes in centimetres": (
        "sample_annotation",
        every(size=lambda s: [100 * v for v in s]),
        "size-unit",
    ),
    "half sizes": ("sample_annotation", every(size=lambda s: [v / 2 for v in s]), "size-unit"),
    "a box on its side": (
        "sample_annotation",
        first(rotation=[0.5**0.5, 0.5**0.5, 0, 0]),
        "box-tilted",
    ),
    "boxes around the origin": (
        "sample_annotation",
        every(translation=lambda t: [t[0] - 400, t[1] - 1100, t[2]]),
        "box-frame",
    ),
    "a box far away": (
        "sample_annotation",
        lambda r: r[0].update(translation=[4000, 0, 0]),
        "box-far",
    ),
    "bottoms as centres": ("sample_annotation", lower_boxes, "box-height"),
    "a box in the sky": (
        "sample_annotation",
        lambda r: r[0]["translation"].__setitem__(2, 40.0),
        "box-height",
    ),
    "no points anywhere": (
        "sample_annotation",
        every(num_lidar_pts=lambda n: 0),
        "box-without-points",
    ),
    "an object twice": (
        "sample_annotation",
        lambda r: r.append({**r[0], "token": "copy", "prev": "", "next": ""}),
        "duplicate-object",
    ),
    "a jump": ("sample_annotation", jump, "object-jump"),
    "a quaternion of length two": (
        "calibrated_sensor",
        camera(rotation=lambda q: [2 * v for v in q]),
        "no-rotation",
    ),
    "a pose of length zero": ("ego_pose", first(rotation=[0, 0, 0, 0]), "no-rotation"),
    "a box rotation of length three": (
        "sample_annotation",
        first(rotation=[3, 0, 0, 0]),
        "no-rotation",
    ),
    "intrinsics of twice the size": (
        "calibrated_sensor",
        camera(camera_intrinsic=scaled),
        "intrinsics-size",
    ),
    "intrinsics transposed": (
        "calibrated_sensor",
        camera(camera_intrinsic=lambda k: np.transpose(k).tolist()),
        "intrinsics-form",
    ),
    "no intrinsics": (
        "calibrated_sensor",
        camera(camera_intrinsic=lambda k: []),
        "intrinsics-missing",
    ),
    "a tiny focal length": (
        "calibrated_sensor",
        camera(camera_intrinsic=lambda k: [[1, 0, k[0][2]], [0, 1, k[1][2]], k[2]]),
        "intrinsics-view",
    ),
    "w last": ("calibrated_sensor", camera(rotation=lambda q: [*q[1:], q[0]]), "camera-direction"),
    "the inverse rotation": (
        "calibrated_sensor",
        camera(rotation=lambda q: [q[0], -q[1], -q[2], -q[3]]),
        "camera-rotation",
    ),
    "no rotation of the camera": (
        "calibrated_sensor",
        camera(rotation=lambda q: [1, 0, 0, 0]),
        "camera-rotation",
    ),
    "a sensor in millimetres": (
        "calibrated_sensor",
        camera(translation=lambda t: [1000 * v for v in t]),
        "sensor-far",
    ),
    "a lidar upside down": (
        "calibrated_sensor",
        lambda r: r[0].update(rotation=[0, 1, 0, 0]),
        "lidar-rotation",
    ),
    "a car on its side": ("ego_pose", first(rotation=[0.5**0.5, 0.5**0.5, 0, 0]), "ego-tilted"),
    "a car that jumps": ("ego_pose", first(translation=[900, 1100, 0]), "ego-jump"),
    "times in seconds": ("sample", every(timestamp=lambda t: t // 10**6), "time-unit"),
    "times in milliseconds": ("ego_pose", every(timestamp=lambda t: t // 1000), "time-unit"),
    "times in nanoseconds": ("sample_data", every(timestamp=lambda t: t * 1000), "time-unit"),
    "a late camera": ("sample_data", late, "late-sensor"),
    "a camera that is missing once": (
        "sample_data",
        lambda r: image_row(r).update(is_key_frame=False),
        "camera-missing",
    ),
    "a lidar that is missing once": (
        "sample_data",
        lambda r: lidar_row(r).update(is_key_frame=False),
        "no-lidar",
    ),
    "a way out of the database": (
        "sample_data",
        lambda r: image_row(r).update(filename="../../etc/passwd"),
        "path-escape",
    ),
    "an absolute lidar file": (
        "sample_data",
        lambda r: lidar_row(r).update(filename="/etc/passwd"),
        "path-escape",
    ),
    "a map that is missing": ("map", first(filename="maps/none.png"), "map-missing"),
    "another image size": (
        "sample_data",
        lambda r: image_row(r).update(height=50, width=90),
        "image-size",
    ),
    "height and width swapped": (
        "sample_data",
        lambda r: image_row(r).update(height=80, width=45),
        "image-size",
    ),
    "one file for two cameras": ("sample_data", share_file, "shared-file"),
    "foreign categories": ("category", every(name=lambda n: "kitten"), "no-known-category"),
    "a pedestrian's attribute": ("sample_annotation", walk, "attribute-class"),
    "a scene of another version": ("scene", first(name="scene-0001"), "no-split"),
    "a pose of another time": (
        "ego_pose",
        lambda r: r[0].update(timestamp=r[0]["timestamp"] + 200_000),
        "pose-time",
    ),
    "a car as large as a house": ("sample_annotation", first(size=[12, 30, 9]), "size-outlier"),
    "a misspelt category": ("category", first(name="vehcle.car"), "unknown-category"),
}
COMPANIONS: dict[str, set[str]] = {  # what one fault brings with it
    "a car as large as a house": {"box-height"},
    "a late camera": {"file-time", "pose-time"},
    "one file for two cameras": {"channel-file", "file-time"},
    "a lost link": {"broken-chain"},
    "a number as text": {"dangling-token", "broken-chain"},
    "a size of two": {"dangling-token", "broken-chain"},
    "a box that is not finite": {"dangling-token", "broken-chain"},
    "a table that is no list": {"dangling-token"},
    "sizes in centimetres": {"box-height"},
    "half sizes": {"box-height"},
    "boxes around the origin": {"box-unseen"},
    "a box far away": {"object-jump"},
    "a box in the sky": {"box-unseen"},
    "a jump": {"box-unseen", "yaw"},
    "a pose of length zero": {"object-jump", "box-unseen"},
    "intrinsics transposed": {"box-unseen"},
    "intrinsics of twice the size": {"box-unseen"},
    "no intrinsics": {"box-unseen"},
    "w last": {"box-unseen", "camera-rotation"},
    "the inverse rotation": {"box-unseen", "camera-direction"},
    "no rotation of the camera": {"box-unseen", "camera-direction"},
    "a sensor in millimetres": {"box-unseen"},
    "a car on its side": {"box-unseen", "box-height"},
    "a car that jumps": {"box-frame", "box-far", "box-unseen"},
    "times in seconds": {"object-jump", "time-order"},
    "times in milliseconds": {"pose-time"},
    "times in nanoseconds": {"pose-time", "file-time"},
    "an object twice": {"broken-chain"},
    "a camera that is missing once": {"box-unseen"},
    "another image size": {"intrinsics-size"},
    "height and width swapped": {"intrinsics-size", "intrinsics-view", "box-unseen"},
}


def test_the_clean_database_has_no_alarm(clean: Path) -> None:
    assert alarms(examine(clean)) == set()


@pytest.mark.parametrize("name", TABLE_FAULTS)
def test_a_fault_in_a_table_is_found(name: str, root: Path) -> None:
    table, change, kind = TABLE_FAULTS[name]
    plant(root, table, change)
    found = alarms(examine(root))
    assert kind in found
    assert found - {kind} <= COMPANIONS.get(name, set())


def swap_cameras(root: Path) -> None:
    """Give the left front camera's calibration to the right one and the other way round."""

    def change(rows: Rows) -> None:
        front = [row for row in rows if row["camera_intrinsic"]][1:3]
        keys = ("rotation", "translation")
        values = [{key: row[key] for key in keys} for row in front]
        front[0].update(values[1])
        front[1].update(values[0])

    plant(root, "calibrated_sensor", change)


def swap_files(root: Path) -> None:
    """Exchange the files of two cameras."""

    def change(rows: Rows) -> None:
        for left, back in zip(
            [row for row in rows if "/CAM_FRONT_LEFT/" in row["filename"]],
            [row for row in rows if "/CAM_BACK_LEFT/" in row["filename"]],
            strict=True,
        ):
            left["filename"], back["filename"] = back["filename"], left["filename"]

    plant(root, "sample_data", change)


def a_file(pattern: str) -> Callable[[Path], Path]:
    return lambda root: sorted(root.glob(pattern))[0]


image, lidar = a_file("samples/CAM_FRONT/*.jpg"), a_file("samples/LIDAR_TOP/*.bin")


def second_image(root: Path) -> Path:
    return sorted(root.glob("samples/CAM_FRONT/*.jpg"))[1]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda root: image(root).unlink(), "image-missing"),
        (lambda root: image(root).write_bytes(image(root).read_bytes()[:-200]), "image-corrupt"),
        (lambda root: image(root).write_bytes(b""), "image-corrupt"),
        (lambda root: Image.new("RGB", (80, 45)).save(image(root)), "image-blank"),
        (lambda root: Image.new("RGB", (40, 22)).save(image(root)), "image-size"),
        (lambda root: shutil.copy(image(root), second_image(root)), "image-copy"),
        (lambda root: lidar(root).unlink(), "lidar-missing"),
        (lambda root: lidar(root).write_bytes(b"123"), "lidar-corrupt"),
        (lambda root: lidar(root).write_bytes(b""), "lidar-empty"),
        (lambda root: np.full((50, 5), np.nan, "<f4").tofile(lidar(root)), "lidar-corrupt"),
        (lambda root: (root / VERSION / "sample.json").write_text("[{"), "file-unreadable"),
        (lambda root: (root / VERSION / "ego_pose.json").unlink(), "file-missing"),
        (lambda root: (root / VERSION / "scene.json").write_text("[]"), "empty-list"),
        (lambda root: (root / VERSION).rename(root / "tables"), "file-missing"),
        (swap_cameras, "camera-direction"),
        (swap_files, "channel-file"),
    ],
)  # fmt: skip
def test_a_broken_file_is_found(change: Callable[[Path], Any], kind: str, root: Path) -> None:
    change(root)
    found = alarms(examine(root))
    assert kind in found
    assert kind == "empty-list" or len(found) <= 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unlike in the tiny database, objects drive where they point and lidar points are real."""
    return make_toy_nuscenes(
        tmp_path_factory.mktemp("toy") / "world", image_size=(96, 168), frames_per_scene=6,
        scenes_per_split=(1, 1), workers=0, progress=False,
    )  # fmt: skip


def test_a_toy_world_has_no_alarm(world: Path) -> None:
    assert alarms(examine(world)) == set()


@pytest.mark.parametrize(
    "change",
    [
        every(rotation=turned(90)),
        every(rotation=turned(180)),
        every(rotation=lambda q: [q[0], q[1], q[2], -q[3]]),
    ],
)
def test_turned_headings_are_found(change: Change, world: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(world, tmp_path / "world"))
    plant(root, "sample_annotation", change)
    found = alarms(examine(root))
    assert {"yaw"} <= found <= {"yaw", "lidar-off-boxes"}


def test_boxes_that_miss_the_lidar_are_found(world: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(world, tmp_path / "world"))
    plant(root, "calibrated_sensor", lambda rows: turn_lidar(root, rows))
    assert alarms(examine(root)) == {"lidar-off-boxes"}


def turn_lidar(root: Path, rows: Rows) -> None:
    sensors = json.loads((root / VERSION / "sensor.json").read_text())
    token = next(s["token"] for s in sensors if s["channel"] == "LIDAR_TOP")
    row = next(row for row in rows if row["sensor_token"] == token)
    row["rotation"] = turned(90)(row["rotation"])


def test_a_box_behind_every_camera_is_found(root: Path) -> None:
    """With the front cameras alone, half of the objects cannot be seen."""
    plant(root, "sample_data", lambda rows: [r for r in rows if "CAM_BACK" not in r["filename"]])
    said = [f for f in examine(root) if f.kind == "box-unseen"]
    assert said[0].severity in ("warning", "error")


def test_objects_without_points_are_a_note(root: Path) -> None:
    assert "box-without-points" in kinds(examine(root))


@pytest.mark.real
def test_a_real_frame_gives_no_alarm(real: Path) -> None:
    assert alarms(examine(real / "nuscenes_frame")) == set()
