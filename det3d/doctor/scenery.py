"""Boxes against what the sensors of their sample saw: cameras and lidar points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from det3d.doctor.calibration import rotation
from det3d.doctor.tables import Tables
from det3d.results.geometry import Array
from det3d.results.points import read_points
from detr2d.data.paths import below
from detr2d.doctor.findings import Finding, gather
from detr2d.doctor.rows import Row

SAMPLES = 200  # samples that are looked at, evenly spread
WELL_SEEN = 20  # lidar points from which a box surely holds some
NEAR = 60.0  # metres from the cameras within which a box should be seen by one
RARE = 0.005  # share of boxes that look-around cameras may miss
MARGIN = 0.25  # share of an image that gaps between neighbouring cameras may have
GRID = np.stack(np.meshgrid(*[[-0.5, 0.0, 0.5]] * 3, indexing="ij"), -1).reshape(-1, 3)


@dataclass(frozen=True)
class Moment:
    """One sample: its annotations, cameras (image_from_global (3, 4), size), and lidar."""

    token: str
    boxes: list[Row]
    cameras: list[tuple[Array, tuple[int, int]]]
    eye: Array | None
    lidar: tuple[str, Array] | None


def global_from_sensor(tables: Tables, data: Row) -> Array | None:
    """The pose (4, 4) of a sensor when its file was made, None if a reference is broken."""
    calibration = tables.by_token["calibrated_sensor"].get(data["calibrated_sensor_token"])
    pose = tables.by_token["ego_pose"].get(data["ego_pose_token"])
    return matrix(pose) @ matrix(calibration) if pose and calibration else None


def matrix(row: Row) -> Array:
    """The transform (4, 4) of a pose or calibration."""
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = rotation(row), row["translation"]
    return transform


def moments(tables: Tables) -> Iterator[Moment]:
    """At most ``SAMPLES`` samples, evenly spread, with what can be resolved of them."""
    boxes, frames = defaultdict(list), defaultdict(list)
    for row in tables.rows["sample_annotation"]:
        boxes[row["sample_token"]].append(row)
    for data, _ in tables.camera_frames:
        frames[data["sample_token"]].append(data)
    lidars = {data["sample_token"]: data for data in tables.lidar_frames}
    samples = tables.rows["sample"][:: max(1, -(-len(tables.rows["sample"]) // SAMPLES))]
    for sample in samples:
        token, cameras, eye = sample["token"], [], None
        for data in frames[token]:
            pose = global_from_sensor(tables, data)
            calibration = tables.by_token["calibrated_sensor"].get(data["calibrated_sensor_token"])
            intrinsic = calibration["camera_intrinsic"] if calibration else []
            if pose is not None and intrinsic:
                eye = pose[:3, 3]
                image_from_global = np.array(intrinsic, dtype=float) @ np.linalg.inv(pose)[:3]
                size = (int(data["height"] or 0), int(data["width"] or 0))
                cameras.append((image_from_global, size))
        lidar, place = lidars.get(token), None
        if lidar is not None:
            place = global_from_sensor(tables, lidar)
        yield Moment(
            token, boxes[token], cameras, eye,
            (lidar["filename"], place) if lidar is not None and place is not None else None,
        )  # fmt: skip


def box_grid(row: Row, grow: float = 1.0) -> Array:
    """27 points (27, 3) of a box in the global frame."""
    width, length, height = row["size"]
    offsets = GRID * (np.array([length, width, height], dtype=float) * grow)
    return offsets @ rotation(row).T + np.array(row["translation"], dtype=float)


def seen(points: Array, cameras: list[tuple[Array, tuple[int, int]]]) -> bool:
    """Whether one of the points (N, 3) lies in one of the images, or closely beside it."""
    for image_from_global, (height, width) in cameras:
        rays = points @ image_from_global[:, :3].T + image_from_global[:, 3]
        pixels = rays[:, :2] / np.maximum(rays[:, 2:], 1e-6)
        sides = np.array([width, height])
        inside = (np.abs(pixels - sides / 2) < (0.5 + MARGIN) * sides).all(1)
        if (inside & (rays[:, 2] > 0.1)).any():
            return True
    return False


def unseen_boxes(tables: Tables) -> Iterable[Finding]:
    """Boxes with points that lie behind or beside every camera."""
    unseen, total = [], 0
    for moment in moments(tables):
        if not moment.cameras or moment.eye is None:
            continue
        for row in moment.boxes:
            near = np.linalg.norm(np.subtract(row["translation"], moment.eye)) < NEAR
            if not near or not row["num_lidar_pts"] + row["num_radar_pts"]:
                continue
            total += 1
            if not seen(box_grid(row), moment.cameras):
                unseen.append(f"{row['token']} in sample {moment.token}")
    share = len(unseen) / max(1, total)
    yield from gather(
        "error" if share > 0.5 else "warning" if share > RARE else "note",
        "box-unseen", tables.file("sample_annotation"), unseen,
        f"boxes behind or beside every camera, {share:.0%} of {total} within {NEAR:.0f} m",
        "if cameras look all around, box or calibration is wrong; "
        "else a camera model cannot find these objects",
    )  # fmt: skip


def lidar_boxes(tables: Tables) -> Iterable[Finding]:
    """Boxes that should hold many lidar points and hold none."""
    empty, total = [], 0
    for moment in moments(tables):
        cloud = lidar_cloud(tables.root, moment)
        if cloud is None:
            continue
        for row in moment.boxes:
            if row["num_lidar_pts"] < WELL_SEEN or min(row["size"]) <= 0:
                continue
            total += 1
            if not holds_points(row, cloud):
                empty.append(f"{row['token']}: {row['num_lidar_pts']} points are said to be in it")
    share = len(empty) / max(1, total)
    yield from gather(
        "error" if total >= 5 and share > 0.5 else "warning",
        "lidar-off-boxes", tables.file("sample_annotation"), empty,
        f"boxes without a point of the lidar file, {share:.0%} of {total} that should hold many",
        "boxes, poses and the calibration of the lidar do not fit together",
    )  # fmt: skip


def lidar_cloud(root: Path, moment: Moment) -> Array | None:
    """Points (N, 3) in the global frame, None if there are none to read."""
    if moment.lidar is None:
        return None
    name, pose = moment.lidar
    try:
        points = read_points(below(root, name, "lidar"), 5, "lidar")[:, :3].astype(float)
    except (ValueError, OSError):
        return None  # another check says so
    return points @ pose[:3, :3].T + pose[:3, 3]


def holds_points(row: Row, cloud: Array) -> bool:
    """Whether a point lies in a box, grown by a tenth."""
    width, length, height = row["size"]
    local = (cloud - np.array(row["translation"], dtype=float)) @ rotation(row)
    halves = 0.55 * np.array([length, width, height], dtype=float) + 0.1
    return bool((np.abs(local) <= halves).all(1).any())
