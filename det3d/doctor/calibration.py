"""Intrinsics, mounting and poses of a database."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from det3d.doctor.tables import Tables
from det3d.geometry import quaternion_to_rotation
from det3d.results.geometry import Array
from detr2d.doctor.findings import Finding, gather
from detr2d.doctor.rows import Row

NORM = 1e-2  # by which a unit quaternion may differ from length one
CENTRE = (0.2, 0.8)  # where the optical axis meets the image, as a share of its sides
SCALED = 1.15  # factor of both sides from which intrinsics belong to another image size
VIEWS = (10.0, 150.0)  # degrees of a pinhole camera from side to side
REACH = 10.0  # metres from the car's origin to a sensor on it
UPRIGHT = 0.5  # cosine of the largest angle between a sensor's up and the car's


def rotation(row: Row) -> Array:
    """The rotation matrix (3, 3) of a pose; the identity for a quaternion of length zero."""
    quaternion = torch.tensor(row["rotation"], dtype=torch.float64)
    return quaternion_to_rotation(quaternion).numpy() if quaternion.norm() > 0 else np.eye(3)


def rotations(tables: Tables) -> Iterable[Finding]:
    """Quaternions that are no rotation."""
    for table in ("calibrated_sensor", "ego_pose", "sample_annotation"):
        wrong = [
            f"{row['token']}: {row['rotation']}"
            for row in tables.rows[table]
            if abs(math.hypot(*row["rotation"]) - 1) > NORM
        ]
        yield from gather(
            "error", "no-rotation", tables.file(table), wrong,
            "rotations that are no unit quaternion", "write w, x, y, z of length one",
        )  # fmt: skip


def camera_calibrations(tables: Tables) -> list[tuple[str, Row, tuple[int, int]]]:
    """Channel, calibration and (height, width) of each camera calibration that key frames use."""
    found = {}
    for data, sensor in tables.camera_frames:
        row = tables.by_token["calibrated_sensor"][data["calibrated_sensor_token"]]
        size = (int(data["height"] or 0), int(data["width"] or 0))
        found[row["token"], size] = (sensor["channel"], row, size)
    return list(found.values())


def intrinsics(tables: Tables) -> Iterable[Finding]:
    """Intrinsics that are missing, malformed, or of another image size."""
    faults: dict[str, list[str]] = {kind: [] for kind in INTRINSIC_WORDS}
    for channel, row, size in camera_calibrations(tables):
        for kind, words in intrinsic_faults(row["camera_intrinsic"], size):
            faults[kind].append(f"{channel} ({row['token'][:12]}): {words}")
    for kind, items in faults.items():
        message, advice = INTRINSIC_WORDS[kind]
        severity = "warning" if kind == "intrinsics-view" else "error"
        where = tables.file("calibrated_sensor")
        yield from gather(severity, kind, where, items, message, advice)  # type: ignore[arg-type]


INTRINSIC_WORDS = {
    "intrinsics-missing": ("cameras without intrinsics", "write the 3 x 3 matrix in pixels"),
    "intrinsics-form": (
        "intrinsics that are no pinhole matrix", "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels",
    ),
    "intrinsics-size": (
        "intrinsics that do not fit the image size",
        "calibration and images must be of the same size: scale the first two rows with the image",
    ),
    "intrinsics-view": ("cameras that see unusually much or little", "is the focal length right?"),
}  # fmt: skip


def intrinsic_faults(
    matrix: Sequence[Sequence[float]], size: tuple[int, int]
) -> Iterable[tuple[str, str]]:
    """Kinds of faults of intrinsics for images of (height, width), with words for each."""
    if not len(matrix):
        yield "intrinsics-missing", "none"
        return
    k = np.array(matrix, dtype=float)
    if not np.allclose(k[2], [0, 0, 1], atol=1e-6) or min(k[0, 0], k[1, 1]) <= 0 or k[1, 0] != 0:
        turned = np.allclose(k[:, 2], [0, 0, 1], atol=1e-6) and (k[2, 0] or k[2, 1])
        yield "intrinsics-form", "it is transposed" if turned else str(k.round(3).tolist())
        return
    height, width = size
    if min(size) <= 0:
        yield "intrinsics-size", "sample_data says no height and width"
        return
    share_x, share_y = k[0, 2] / width, k[1, 2] / height
    factors = (2 * share_x, 2 * share_y)
    alike = max(factors) < 1.15 * min(factors)
    scaled = alike and (min(factors) > SCALED or max(factors) < 1 / SCALED)
    if scaled or not all(CENTRE[0] < share < CENTRE[1] for share in (share_x, share_y)):
        hint = f"; it fits images {np.mean(factors):.2f} times as large" if scaled else ""
        yield (
            "intrinsics-size",
            f"the axis meets ({k[0, 2]:.0f}, {k[1, 2]:.0f}) of {width} x {height} (width x height)"
            + hint,
        )
        return
    view = 2 * math.degrees(math.atan(width / (2 * k[0, 0])))
    if not VIEWS[0] < view < VIEWS[1] or not 0.75 < k[0, 0] / k[1, 1] < 1.33:
        yield "intrinsics-view", f"{view:.0f} degrees wide, fx {k[0, 0]:.0f}, fy {k[1, 1]:.0f}"


def mounting(tables: Tables) -> Iterable[Finding]:
    """Cameras that are not upright, lidars upside down, sensors far from the car."""
    where, sensors = tables.file("calibrated_sensor"), tables.by_token["sensor"]
    faults: dict[str, list[str]] = {"tilted": [], "explained": []}
    inverted, far = [], []
    for row in tables.rows["calibrated_sensor"]:
        sensor = sensors.get(row["sensor_token"])
        if sensor is None:
            continue
        name = f"{sensor['channel']} ({row['token'][:12]})"
        if math.hypot(*row["translation"]) > REACH:
            far.append(f"{name}: {row['translation']}")
        if sensor["modality"] == "camera" and not looks_level(rotation(row)):
            reading = other_reading(row)
            faults["explained" if reading else "tilted"].append(f"{name}{reading}")
        if sensor["modality"] == "lidar" and rotation(row)[2, 2] < UPRIGHT:
            inverted.append(name)
    yield from gather(
        "error", "camera-rotation", where, faults["explained"],
        "cameras whose rotation is written otherwise",
        "rotation is ego_from_camera as a quaternion w, x, y, z; a camera has z forward, y down",
    )  # fmt: skip
    yield from gather(
        "warning", "camera-rotation", where, faults["tilted"],
        "cameras that do not stand upright or look up or down",
        "is the rotation that of the camera with z forward and y down, in the car's frame?",
    )  # fmt: skip
    yield from gather(
        "warning", "lidar-rotation", where, inverted, "lidars whose z axis does not point up"
    )
    yield from gather(
        "warning", "sensor-far", where, far, "sensors far from the origin of the car",
        "translations are in metres, in the frame of the car",
    )  # fmt: skip


def looks_level(ego_from_camera: Array) -> bool:
    """Whether a camera looks to the side rather than up or down, with its y axis down."""
    return bool(abs(ego_from_camera[2, 2]) < 0.87 and ego_from_camera[2, 1] < -UPRIGHT)


def other_reading(row: Row) -> str:
    """Words for another reading of a rotation in which the camera is level, empty if none is."""
    x, y, z, w = row["rotation"]
    last = rotation({"rotation": [w, x, y, z]})
    axes = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # forward, left, up of x right, y down
    for matrix, words in (
        (rotation(row).T, "camera_from_ego instead of ego_from_camera"),
        (last, "the order x, y, z, w"),
        (last.T, "the order x, y, z, w, of camera_from_ego"),
        (rotation(row) @ axes, "axes x forward, y left, z up of the camera"),
    ):
        if looks_level(matrix):
            return f": level if read as {words}"
    return ""


def directions(tables: Tables) -> Iterable[Finding]:
    """Cameras that look elsewhere than their name says."""
    wrong = []
    for channel, row, _ in camera_calibrations(tables):
        forward = rotation(row)[:2, 2]
        ahead, left = forward / max(float(np.linalg.norm(forward)), 1e-9)
        words = channel.upper().split("_")
        claims = {
            "FRONT": ahead > 0.1, "BACK": ahead < -0.1, "LEFT": left > 0.1, "RIGHT": left < -0.1,
        }  # fmt: skip
        failed = [word.lower() for word, holds in claims.items() if word in words and not holds]
        if failed:
            azimuth = math.degrees(math.atan2(left, ahead))
            wrong.append(f"{channel} looks {azimuth:.0f} degrees left of ahead")
    yield from gather(
        "warning", "camera-direction", tables.file("calibrated_sensor"), wrong,
        "cameras that do not look where their name says",
        "are two calibrations or two sensors mixed up?",
    )  # fmt: skip


def ego_poses(tables: Tables) -> Iterable[Finding]:
    """Cars that lie on their side."""
    tilted = [row["token"] for row in tables.rows["ego_pose"] if rotation(row)[2, 2] < 0.7]
    yield from gather(
        "warning", "ego-tilted", tables.file("ego_pose"), tilted, "ego poses that are not upright",
        "rotation is global_from_ego as a quaternion w, x, y, z",
    )  # fmt: skip


def channel_files(tables: Tables) -> Iterable[Finding]:
    """Files that lie in the folder of another sensor, and files that two rows share."""
    channels = {sensor["channel"] for sensor in tables.rows["sensor"]}
    owners: dict[str, str] = {}
    foreign, shared = [], []
    for data, sensor in tables.key_frames:
        folders = set(data["filename"].split("/")[:-1])
        if channels & folders and sensor["channel"] not in folders:
            foreign.append(f"{data['filename']} of {sensor['channel']}")
        if owners.setdefault(data["filename"], data["token"]) != data["token"]:
            shared.append(data["filename"])
    late = [
        f"{data['filename']} at {data['timestamp']}"
        for data, _ in tables.key_frames
        if (time := re.search(r"__(\d{16})\.", data["filename"])) is not None
        and int(time[1]) != data["timestamp"]
    ]
    where = tables.file("sample_data")
    yield from gather(
        "warning", "channel-file", where, foreign, "files that lie in the folder of another sensor",
        "are two cameras mixed up? Then boxes lie beside the objects",
    )  # fmt: skip
    yield from gather(
        "error", "shared-file", where, shared, "files that several key frames share",
        "each key frame of a sensor has a file of its own",
    )  # fmt: skip
    yield from gather(
        "warning", "file-time", where, late, "files whose name tells another time than their row",
        "are two moments mixed up? Then boxes lie where objects were or will be",
    )  # fmt: skip
