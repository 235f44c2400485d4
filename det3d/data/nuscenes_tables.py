"""Reads the JSON tables of a nuScenes-format database and joins them into arrays.

This runs once per database (``nuscenes_index`` keeps the result). Rows are reduced to the few
values that are kept while the JSON is parsed, so that the full trainval tables fit in memory. All
geometry is composed in float64.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from det3d.boxes import transform_boxes
from det3d.data.nuscenes_index import DETECTION_CLASSES, RefFrame
from det3d.data.nuscenes_rows import Row, find, integer_of, numbers_of, read_table, text_of
from det3d.geometry import invert_transform, make_transform, quaternion_to_rotation
from detr2d.data.image_headers import MAX_PIXELS
from detr2d.data.json_files import are_numbers, are_texts, load_json

Array = npt.NDArray[Any]

LIDAR = "LIDAR_TOP"
MAX_TIME_DIFFERENCE = 1.5  # seconds between neighbouring annotations, nuScenes devkit box_velocity
VERSION_SPLITS = {  # which splits the devkit accepts for which ending of the version
    "trainval": ("train", "val", "train_detect", "train_track"),
    "mini": ("mini_train", "mini_val"),
    "test": ("test",),
}


@dataclass(frozen=True)
class SensorData:
    """One file: where it is, and the sample, calibration and pose that belong to it."""

    sample: str
    channel: str
    calibration: str
    pose: str
    time: int
    file: str
    size: tuple[int, int]


def build_index(tables: Path, ref: RefFrame) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and metadata of ``NuScenesIndex`` from a folder of tables."""
    cameras, calibrations = read_calibrations(tables)
    scenes = read_scenes(tables)
    samples = read_samples(tables, [token for token, _ in scenes])
    sample_rows = {token: row for row, (token, _, _) in enumerate(samples)}
    data = read_files(tables, calibrations, sample_rows, key_frames=True)
    poses = read_poses(tables, {item.pose for item in data})
    sensors = join_sensors(samples, data, calibrations, poses, cameras, ref)
    objects = join_objects(tables, samples, sensors)
    arrays = {
        "scene_names": np.array([name.encode() for _, name in scenes], dtype="S"),
        "sample_tokens": np.array([token.encode() for token, _, _ in samples], dtype="S"),
        "sample_scenes": np.array([scene for _, scene, _ in samples], dtype=np.int32),
        "sample_times": np.array([time for _, _, time in samples], dtype=np.int64),
    }
    names = [name for _, name in scenes]
    meta = {"channels": cameras, "splits": scene_splits(tables, names)}
    return arrays | sensors | objects, meta


def read_calibrations(tables: Path) -> tuple[list[str], dict[str, tuple[str, Any, Any]]]:
    """The camera channels, sorted, and (channel, pose in ego, intrinsics) of each calibration."""
    channels = dict(
        read_table(tables / "sensor.json", lambda row: (text_of(row, "token"), sensor_channel(row)))
    )
    calibrations = dict(
        read_table(
            tables / "calibrated_sensor.json",
            lambda row: (
                text_of(row, "token"),
                (
                    find(channels, text_of(row, "sensor_token"), "sensor", "a calibrated_sensor"),
                    pose_of(row),
                    intrinsics_of(row),
                ),
            ),
        )
    )
    return sorted({name for name in channels.values() if name and name != LIDAR}), calibrations


def read_scenes(tables: Path) -> list[tuple[str, str]]:
    """(token, name) of each scene, in the order of the table."""
    return read_table(
        tables / "scene.json", lambda row: (text_of(row, "token"), text_of(row, "name"))
    )


def read_poses(tables: Path, wanted: Collection[str]) -> dict[str, tuple[float, ...]]:
    """The poses in the world with the ``wanted`` tokens."""
    return dict(
        read_table(
            tables / "ego_pose.json",
            lambda row: (row["token"], pose_of(row)) if text_of(row, "token") in wanted else None,
        )
    )


def sensor_channel(row: Row) -> str:
    """The channel of a camera or of the reference lidar; empty for sensors that are not read."""
    channel = text_of(row, "channel")
    return channel if row["modality"] == "camera" or channel == LIDAR else ""


def intrinsics_of(row: Row) -> list[list[float]]:
    """The intrinsics of a calibration, nothing for what is no camera."""
    matrix = row["camera_intrinsic"]
    if matrix != [] and not (len(matrix) == 3 and all(are_numbers(line, 3) for line in matrix)):
        raise ValueError(f"camera_intrinsic must be 3 x 3 numbers, got {str(matrix)[:60]}")
    return matrix


def pose_of(row: Row) -> tuple[float, ...]:
    """Translation and quaternion (w, x, y, z) of a pose or calibration: 7 numbers."""
    return (*numbers_of(row, "translation", 3), *numbers_of(row, "rotation", 4))


def read_samples(tables: Path, scenes: list[str]) -> list[tuple[str, int, int]]:
    """(token, row of the scene, time in microseconds) of each sample, by scene, then time."""
    scene_rows = {token: row for row, token in enumerate(scenes)}

    def keep(row: Row) -> tuple[str, str, int]:
        return text_of(row, "token"), text_of(row, "scene_token"), integer_of(row, "timestamp")

    rows = read_table(tables / "sample.json", keep)
    if len({token for token, _, _ in rows}) < len(rows):
        raise ValueError(f"{tables / 'sample.json'} has a token that stands twice")
    samples = [
        (token, find(scene_rows, scene, "scene", f"sample {token}"), time)
        for token, scene, time in rows
    ]
    return sorted(samples, key=lambda sample: sample[1:])


def read_files(
    tables: Path,
    calibrations: Mapping[str, tuple[str, Any, Any]],
    samples: Collection[str],
    *,
    key_frames: bool,
) -> list[SensorData]:
    """The files of cameras and of the reference lidar: of key frames, or of those in between."""

    def keep(row: Row) -> SensorData | None:
        if row["is_key_frame"] != key_frames:
            return None
        calibration = text_of(row, "calibrated_sensor_token")
        user = f"sample_data {row['token']}"
        channel = find(calibrations, calibration, "calibrated_sensor", user)[0]
        if not channel:
            return None
        sample = text_of(row, "sample_token")
        find(samples_by_token, sample, "sample", user)
        size = (int(row.get("height") or 0), int(row.get("width") or 0))
        if min(size) < 0 or size[0] * size[1] > MAX_PIXELS:
            raise ValueError(f"{user}: height and width must be pixels, got {size}")
        pose, time = text_of(row, "ego_pose_token"), integer_of(row, "timestamp")
        file = text_of(row, "filename")
        return SensorData(sample, channel, calibration, pose, time, file, size)

    samples_by_token = dict.fromkeys(samples)
    return read_table(tables / "sample_data.json", keep)


def matrices(poses: list[tuple[float, ...]]) -> torch.Tensor:
    """Transforms (N, 4, 4) float64 of N poses written as translation and quaternion."""
    numbers = torch.tensor(poses, dtype=torch.float64).reshape(-1, 7)
    return make_transform(quaternion_to_rotation(numbers[:, 3:]), numbers[:, :3])


def join_sensors(
    samples: list[tuple[str, int, int]],
    data: list[SensorData],
    calibrations: Mapping[str, tuple[str, tuple[float, ...], Any]],
    poses: Mapping[str, tuple[float, ...]],
    cameras: list[str],
    ref: RefFrame,
) -> dict[str, Array]:
    """Files, calibration and poses per sample and camera, in the ref frame of the sample."""
    rows = {token: row for row, (token, _, _) in enumerate(samples)}
    lidar = {item.sample: item for item in data if item.channel == LIDAR}
    for token in rows:
        if token not in lidar:
            raise ValueError(f"sample {token} has no {LIDAR} key frame, which sets the ref frame")
    frames = [lidar[token] for token in rows]
    images = [item for item in data if item.channel != LIDAR]

    def to_global(items: list[SensorData]) -> torch.Tensor:
        return matrices(
            [find(poses, item.pose, "ego_pose", f"sample {item.sample}") for item in items]
        )

    def to_ego(items: list[SensorData]) -> torch.Tensor:
        return matrices([calibrations[item.calibration][1] for item in items])

    global_from_ego, ego_from_lidar = to_global(frames), to_ego(frames)
    ego_from_ref = ego_from_lidar
    if ref == "ego":
        ego_from_ref = torch.eye(4, dtype=torch.float64).expand_as(ego_from_lidar)
    row = torch.tensor([rows[item.sample] for item in images], dtype=torch.int64)
    column = [cameras.index(item.channel) for item in images]
    camera_from_global = invert_transform(to_global(images) @ to_ego(images))
    camera_from_ref = camera_from_global @ (global_from_ego @ ego_from_ref)[row]
    lacking = [item.channel for item in images if not calibrations[item.calibration][2]]
    if lacking:
        raise ValueError(f"camera {lacking[0]} has no camera_intrinsic")
    intrinsics = [calibrations[item.calibration][2] for item in images]
    lead = (len(samples), len(cameras))

    def scatter(values: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        table = np.zeros((*lead, *shape), dtype=dtype)
        table[row.numpy(), column] = np.asarray(values, dtype=dtype).reshape(-1, *shape)
        return table

    files = np.array([item.file.encode() for item in images], dtype="S")
    return {
        "global_from_ego": global_from_ego.numpy(),
        "ego_from_ref": ego_from_ref.numpy(),
        "ref_from_lidar": (invert_transform(ego_from_ref) @ ego_from_lidar).numpy(),
        "lidar_files": np.array([item.file.encode() for item in frames], dtype="S"),
        "image_files": scatter(files, (), files.dtype),
        "image_sizes": scatter([item.size for item in images], (2,), np.int32),
        "image_times": scatter([item.time for item in images], (), np.int64),
        "intrinsics": scatter(intrinsics, (3, 3), np.float64),
        "camera_from_ref": scatter(camera_from_ref.numpy(), (4, 4), np.float64),
    }


def join_objects(
    tables: Path, samples: list[tuple[str, int, int]], sensors: Mapping[str, Array]
) -> dict[str, Array]:
    """Boxes, labels and point counts of the objects of the ten classes, sample by sample."""
    rows = {token: row for row, (token, _, _) in enumerate(samples)}
    categories = dict(
        read_table(
            tables / "category.json", lambda row: (text_of(row, "token"), detection_label(row))
        )
    )
    labels = dict(
        read_table(
            tables / "instance.json",
            lambda row: (
                text_of(row, "token"),
                find(categories, row["category_token"], "category", f"instance {row['token']}"),
            ),
        )
    )

    def keep(row: Row) -> tuple[Any, ...] | None:
        user = f"sample_annotation {row['token']}"
        label = find(labels, row["instance_token"], "instance", user)
        if label < 0:
            return None
        sample = find(rows, row["sample_token"], "sample", user)
        points = integer_of(row, "num_lidar_pts") + integer_of(row, "num_radar_pts")
        before, after = text_of(row, "prev"), text_of(row, "next")
        return text_of(row, "token"), before, after, sample, label, points, box_of(row)

    kept = read_table(tables / "sample_annotation.json", keep)
    columns = list(zip(*kept, strict=True)) if kept else [()] * 7
    own = {token: i for i, token in enumerate(columns[0])}
    own[""] = -1  # no neighbour
    before, after = (
        np.array([find(own, t, "sample_annotation", "a neighbour") for t in column], dtype=np.int64)
        for column in columns[1:3]
    )
    sample = np.array(columns[3], dtype=np.int64)
    numbers = np.array(columns[6], dtype=np.float64).reshape(-1, 10)
    times = np.array([time for _, _, time in samples], dtype=np.int64)[sample]
    velocity = velocities(numbers[:, :2], times, before, after)
    order = np.argsort(sample, kind="stable")
    boxes = boxes_in_ref(numbers, velocity, sample, sensors)
    counts = np.bincount(sample, minlength=len(samples))
    return {
        "object_starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "object_boxes": boxes[order].astype(np.float32),
        "object_labels": np.array(columns[4], dtype=np.int64)[order],
        "object_points": np.array(columns[5], dtype=np.int64)[order],
    }


def box_of(row: Row) -> tuple[float, ...]:
    """Centre, width, length, height and quaternion of an annotation: 10 numbers."""
    place, turn = numbers_of(row, "translation", 3), numbers_of(row, "rotation", 4)
    return (*place, *numbers_of(row, "size", 3), *turn)


def velocities(centres: Array, times: Array, before: Array, after: Array) -> Array:
    """Velocities (A, 2) in m/s by the devkit's ``box_velocity``.

    The difference between the previous and the next annotation of the instance, or the own one
    where there is no neighbour; unknown (NaN) for a single annotation and for gaps of more than
    1.5 s a side. ``centres`` (A, 2) in metres, ``times`` (A,) in microseconds, ``before`` and
    ``after`` (A,): rows of the neighbours, -1 where there is none.
    """
    own = np.arange(len(times))
    sides = (before >= 0).astype(int) + (after >= 0)
    before, after = np.where(before < 0, own, before), np.where(after < 0, own, after)
    # Seconds are formed before subtracting, as the devkit does: its rounding decides at the limit.
    elapsed = 1e-6 * times[after] - 1e-6 * times[before]
    known = (sides > 0) & (elapsed <= MAX_TIME_DIFFERENCE * np.maximum(sides, 1))
    elapsed = np.where(known, elapsed, np.nan)
    return (centres[after] - centres[before]) / elapsed[:, None]


def boxes_in_ref(
    numbers: Array, velocity: Array, sample: Array, sensors: Mapping[str, Array]
) -> Array:
    """Boxes (A, 9) in the ref frame of their sample from global annotations.

    ``numbers`` (A, 10): centre, width, length, height and quaternion as in sample_annotation.
    """
    rotation = quaternion_to_rotation(torch.from_numpy(numbers[:, 6:]))
    yaw = torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0])
    centre, size = numbers[:, :3], numbers[:, [4, 3, 5]]
    boxes = torch.from_numpy(np.hstack([centre, size, yaw[:, None].numpy(), velocity]))
    ref_from_global = invert_transform(
        torch.from_numpy(sensors["global_from_ego"] @ sensors["ego_from_ref"])
    )
    moved = transform_boxes(ref_from_global[torch.from_numpy(sample)], boxes.unsqueeze(1))
    return moved.squeeze(1).numpy()


def detection_label(category: Row) -> int:
    """The label of a nuScenes category in the detection task, -1 if it is not part of it."""
    from nuscenes.eval.detection.utils import category_to_detection_name

    name = category_to_detection_name(category["name"])
    return -1 if name is None else DETECTION_CLASSES.index(name)


def scene_splits(tables: Path, scenes: list[str]) -> dict[str, list[str]]:
    """The scenes of this database in each split that fits its version, custom splits included."""
    from nuscenes.utils.splits import create_splits_scenes

    official = create_splits_scenes()
    suffix = tables.name.rsplit("-", 1)[-1]
    splits = {name: official[name] for name in VERSION_SPLITS.get(suffix, ())}
    custom = tables / "splits.json"
    if custom.is_file():
        own = load_json(custom)
        if not isinstance(own, dict) or not all(map(are_texts, own.values())):
            raise ValueError(f"{custom} must be an object of lists of scene names")
        splits |= own
    present = set(scenes)
    return {name: [s for s in members if s in present] for name, members in splits.items()}
