"""Between the result format and nuScenes: official submissions, and the rig of a database.

Works on the index of a database (``det3d.data.nuscenes_index``), which needs neither the devkit nor
torch once it is built.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from det3d.data.nuscenes_index import DETECTION_CLASSES, NuScenesIndex
from det3d.results.format import Camera, Category, Frame, Objects, Results
from det3d.results.geometry import (
    Array,
    box_rotations,
    invert_transform,
    quaternion_yaws,
    quaternions,
    transform_boxes,
)
from detr2d.data.json_files import are_numbers, is_number, load_json

MOVING_SPEED = 0.2  # m/s; slower objects get the attribute of a resting one
CLASS_RANGES = {  # metres around the ego vehicle within which a class is judged
    "car": 50, "truck": 50, "construction_vehicle": 50, "bus": 50, "trailer": 50,
    "barrier": 30, "motorcycle": 40, "bicycle": 40, "pedestrian": 40, "traffic_cone": 30,
}  # fmt: skip
ATTRIBUTES = {  # (moving, resting), as the released camera detectors assign them
    "car": ("vehicle.moving", "vehicle.parked"),
    "truck": ("vehicle.moving", "vehicle.parked"),
    "construction_vehicle": ("vehicle.moving", "vehicle.parked"),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "trailer": ("vehicle.moving", "vehicle.parked"),
    "barrier": ("", ""),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "traffic_cone": ("", ""),
}
CATEGORIES = tuple(Category(name, float(CLASS_RANGES[name])) for name in DETECTION_CLASSES)

ResultBox = dict[str, Any]


def usual_attribute(name: str, velocity: Array) -> str:
    """The attribute of a class at a velocity (2,) in m/s, if nothing better is known."""
    return ATTRIBUTES[name][0 if np.hypot(*velocity) > MOVING_SPEED else 1]


def to_official(objects: Objects, token: str, global_from_ref: Array) -> list[ResultBox]:
    """Detections of a sample as boxes of an official submission, in the global frame.

    The tilt of the ref frame goes into the rotation; an unknown velocity becomes zero. Raises
    ValueError for objects without scores.
    """
    if objects.scores is None:
        raise ValueError(f"sample {token}: objects without scores are no detections")
    moved = transform_boxes(global_from_ref, objects.boxes)
    moved[:, 7:9] = np.nan_to_num(moved[:, 7:9])
    turns = quaternions(box_rotations(global_from_ref, objects.boxes[:, 6]))
    names = [DETECTION_CLASSES[label] for label in objects.labels.tolist()]
    attributes = objects.attributes or [
        usual_attribute(name, box[7:9]) for name, box in zip(names, moved, strict=True)
    ]
    return [
        {
            "sample_token": token,
            "translation": box[:3].tolist(),
            "size": box[[4, 3, 5]].tolist(),  # width, length, height
            "rotation": turn.tolist(),
            "velocity": box[7:9].tolist(),
            "detection_name": name,
            "detection_score": float(score),
            "attribute_name": attribute,
        }
        for name, box, turn, score, attribute in zip(
            names, moved, turns, objects.scores, attributes, strict=True
        )
    ]


def from_official(boxes: Iterable[Mapping[str, Any]], global_from_ref: Array) -> Objects:
    """Official boxes of one sample in its ref frame, best score first.

    Raises KeyError or ValueError for boxes that are not complete.
    """
    boxes = list(boxes)
    for box in boxes:
        _check_box(box)
    ordered = sorted(boxes, key=lambda box: -box["detection_score"])
    numbers = official_numbers(ordered)
    names = [box["detection_name"] for box in ordered]
    attributes = tuple(box.get("attribute_name", "") for box in ordered)
    usual = tuple(usual_attribute(*pair) for pair in zip(names, numbers[:, 7:9], strict=True))
    return Objects(
        transform_boxes(invert_transform(global_from_ref), numbers),
        np.array([DETECTION_CLASSES.index(name) for name in names], dtype=np.int64),
        np.array([box["detection_score"] for box in ordered], dtype=np.float64),
        attributes=None if attributes == usual else attributes,
    )


def official_numbers(boxes: Sequence[Mapping[str, Any]]) -> Array:
    """Official boxes as numbers (N, 9) in our order, in the frame that they are written in."""

    def column(key: str, width: int) -> Array:
        return np.array([box[key] for box in boxes], dtype=np.float64).reshape(-1, width)

    yaws = quaternion_yaws(column("rotation", 4))[:, None]
    sizes = column("size", 3)[:, [1, 0, 2]]
    return np.hstack([column("translation", 3), sizes, yaws, column("velocity", 2)])


def _check_box(box: Mapping[str, Any]) -> None:
    """Raise ValueError if a box has not the numbers of its keys; an unknown velocity is NaN."""
    for key, count in (("translation", 3), ("size", 3), ("rotation", 4)):
        if not are_numbers(box[key], count):
            raise ValueError(f"{key} must be {count} finite numbers, got {str(box[key])[:60]}")
    velocity = box["velocity"]
    if not isinstance(velocity, list) or len(velocity) != 2:
        raise ValueError(f"velocity must be 2 numbers, got {str(velocity)[:60]}")
    if not all(speed is None or speed != speed or is_number(speed) for speed in velocity):
        raise ValueError(f"velocity must be 2 numbers, none infinite, got {str(velocity)[:60]}")
    if not is_number(box["detection_score"]):
        raise ValueError(f"detection_score must be a number, got {box['detection_score']!r}")
    if box["detection_name"] not in DETECTION_CLASSES:
        raise ValueError(f"detection_name must be a class, got {str(box['detection_name'])[:60]!r}")


def submission(results: Results) -> dict[str, list[ResultBox]]:
    """The boxes by sample token of an official submission. Raises ValueError for other classes."""
    if results.names != DETECTION_CLASSES:
        raise ValueError(f"nuScenes' classes are {', '.join(DETECTION_CLASSES)}, in this order")
    return {
        frame.token: []
        if frame.detections is None
        else to_official(frame.detections, frame.token, frame.global_from_ref)
        for frame in results.frames
    }


def read_submission(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The boxes by sample token of an official detection result file.

    Raises ValueError that names the file if it is not one, or a box is not complete.
    """
    content = load_json(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("results"), Mapping):
        raise ValueError(f'{path} is no nuScenes submission: expected {{"meta", "results"}}')
    for token, boxes in content["results"].items():
        try:
            for box in boxes:
                _check_box(box)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: sample {token}: no detection boxes ({error!r})") from error
    return dict(content["results"])


def write_submission(path: Path, results: Mapping[str, Any]) -> None:
    """Write a camera-only submission so that ``path`` is complete or absent."""
    meta = {
        "use_camera": True,
        "use_lidar": False,
        "use_radar": False,
        "use_map": False,
        "use_external": False,
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps({"meta": meta, "results": dict(results)}))
    os.replace(partial, path)


def database_results(
    index: NuScenesIndex,
    root: Path,
    rows: Sequence[int],
    detections: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
    *,
    source: str = "",
) -> Results:
    """Samples of a database with their ground truth, and official boxes by token as detections.

    Ground truth without any lidar or radar point is left out, as in the benchmark.
    """
    frames = tuple(database_frame(index, int(row), detections) for row in rows)
    forward = forward_yaw(frames[0].ego_from_ref) if frames else 0.0
    return Results(CATEGORIES, frames, root, forward=forward, source=source or index.version)


def forward_yaw(ego_from_ref: Array) -> float:
    """Yaw in ref, in quarter turns, where the car looks: +y for LIDAR_TOP, +x for the ego frame."""
    yaw = np.arctan2(ego_from_ref[0, 1], ego_from_ref[0, 0])
    return float(np.round(yaw / (np.pi / 2)) * np.pi / 2)


def database_frame(
    index: NuScenesIndex,
    row: int,
    detections: Mapping[str, Iterable[Mapping[str, Any]]] | None,
) -> Frame:
    """One sample of a database. Raises ValueError if ``detections`` lack it."""
    token = _text(index.sample_tokens[row])
    global_from_ref = index.global_from_ego[row] @ index.ego_from_ref[row]
    if detections is not None and token not in detections:
        raise ValueError(f"no detections for sample {token} ({len(detections)} samples)")
    found = None
    if detections is not None:
        try:
            found = from_official(detections[token], global_from_ref)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"sample {token}: no detection boxes ({error!r})") from error
    start, stop = index.object_starts[row : row + 2]
    seen = index.object_points[start:stop] > 0
    return Frame(
        token=token,
        scene=_text(index.scene_names[index.sample_scenes[row]]),
        time=float(1e-6 * index.sample_times[row]),
        cameras=tuple(database_cameras(index, row)),
        ego_from_ref=np.asarray(index.ego_from_ref[row]),
        global_from_ref=np.asarray(global_from_ref),
        detections=found,
        ground_truth=Objects(
            index.object_boxes[start:stop][seen].astype(np.float64),
            np.asarray(index.object_labels[start:stop][seen]),
        ),
        lidar=_text(index.lidar_files[row]) or None,
    )


def database_cameras(index: NuScenesIndex, row: int) -> Iterable[Camera]:
    """The cameras that a sample has."""
    for column, channel in enumerate(index.channels):
        file = _text(index.image_files[row, column])
        if not file:
            continue
        height, width = index.image_sizes[row, column].tolist()
        yield Camera(
            name=channel,
            image=file,
            width=width,
            height=height,
            intrinsics=np.asarray(index.intrinsics[row, column]),
            camera_from_ref=np.asarray(index.camera_from_ref[row, column]),
        )


def _text(value: bytes) -> str:
    return str(value, "utf-8")
