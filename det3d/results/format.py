"""The result format: what was found, what is there, and the cameras that saw it, as one JSON file.

``docs/results_format.md`` describes the file. No image is copied: cameras name their image files.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from det3d.results.geometry import Array
from detr2d.data.image_headers import MAX_PIXELS
from detr2d.data.json_files import is_number, load_json

FORMAT, VERSION = "multicamera-results", 1
LENSES = ("pinhole",)
Json = Any


@dataclass(frozen=True)
class Category:
    """A class and the distance from the ego vehicle up to which it is judged, None for all."""

    name: str
    range: float | None = None


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera of one frame.

    image: file below ``Results.image_root``; width, height in pixels; intrinsics (3, 3):
    image_from_camera, (0, 0) is the corner of the top-left pixel; camera_from_ref (4, 4).
    """

    name: str
    image: str
    width: int
    height: int
    intrinsics: Array
    camera_from_ref: Array
    lens: str = "pinhole"


@dataclass(frozen=True, eq=False)
class Objects:
    """N boxes, detections best first.

    boxes (N, 9): x, y, z, length, width, height, yaw, vx, vy in the ref frame as in
    ``det3d.boxes``, NaN for an unknown velocity; labels (N,) int; scores (N,) or None for ground
    truth; tracks: an id for each object, or None; attributes: likewise.
    """

    boxes: Array
    labels: Array
    scores: Array | None = None
    tracks: tuple[str, ...] | None = None
    attributes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Array) -> Objects:
        """The objects of a boolean mask or in the order of an index."""
        rows = np.arange(len(self))[index].tolist()
        return Objects(
            self.boxes[rows],
            self.labels[rows],
            None if self.scores is None else self.scores[rows],
            None if self.tracks is None else tuple(self.tracks[i] for i in rows),
            None if self.attributes is None else tuple(self.attributes[i] for i in rows),
        )


@dataclass(frozen=True, eq=False)
class Frame:
    """One moment: cameras, ego pose and objects, all in one ref frame.

    time in seconds; ego_from_ref and global_from_ref (4, 4); lidar: file of float32 points below
    the image root, x y z first and ``lidar_columns`` numbers each, in the ref frame.
    """

    token: str
    scene: str
    time: float
    cameras: tuple[Camera, ...]
    ego_from_ref: Array
    global_from_ref: Array
    detections: Objects | None = None
    ground_truth: Objects | None = None
    lidar: str | None = None
    lidar_columns: int = 5


@dataclass(frozen=True, eq=False)
class Results:
    """Frames of any rig with their objects.

    forward: the direction of travel as an angle from the ref frame's +x axis, radians; image_root:
    folder that file names are relative to; source: words about where all this comes from.
    """

    classes: tuple[Category, ...]
    frames: tuple[Frame, ...]
    image_root: Path
    forward: float = 0.0
    source: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        return tuple(category.name for category in self.classes)


def write_results(path: Path, results: Results) -> None:
    """Write a result file, complete or not at all, one line a frame.

    The image root is written relative to the file, so that both can move together.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    root = os.path.relpath(results.image_root.resolve(), path.parent.resolve())
    head = {
        "format": FORMAT,
        "version": VERSION,
        "source": results.source,
        "image_root": Path(root).as_posix(),
        "forward": round(results.forward, 9),
        "classes": [{"name": c.name, "range": c.range} for c in results.classes],
    }
    lines = [json.dumps(_frame_to_json(frame), separators=(",", ":")) for frame in results.frames]
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(head, indent=1)[:-2] + ',\n "frames": [\n' + ",\n".join(lines))
    with partial.open("a") as file:
        file.write("\n ]\n}\n")
    os.replace(partial, path)


def read_results(path: Path) -> Results:
    """Read a result file. Raises FileNotFoundError, or ValueError naming frame and key."""
    if not path.is_file():
        raise FileNotFoundError(f"result file {path} is missing")
    content = load_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        hint = ""
        if isinstance(content, dict) and "results" in content:
            hint = "; a nuScenes submission is converted by tools/convert_results.py"
        raise ValueError(f'{path} is no result file: expected "format": "{FORMAT}"{hint}')
    if content.get("version") != VERSION:
        raise ValueError(f"{path} has version {content.get('version')!r}, expected {VERSION}")
    try:
        classes = tuple(_category_from_json(category) for category in content["classes"])
        frames = tuple(_frame_from_json(frame, len(classes)) for frame in content["frames"])
        root = path.parent / _text(content["image_root"], "image_root", "it")
        forward, source = float(content.get("forward", 0.0)), str(content.get("source", ""))
    except KeyError as error:
        raise ValueError(f"{path} lacks the key {error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not frames or not math.isfinite(forward):
        raise ValueError(f"{path} has no frames, or no finite forward direction")
    return Results(classes, frames, root, forward, source)


def is_results(path: Path) -> bool:
    """Tell by its first bytes whether a file is a result file."""
    with path.open("rb") as file:
        return f'"{FORMAT}"'.encode() in file.read(200)


def _frame_to_json(frame: Frame) -> Json:
    content = {
        "token": frame.token,
        "scene": frame.scene,
        "time": round(frame.time, 6),
        "ego_from_ref": _numbers(frame.ego_from_ref, 9),
        "global_from_ref": _numbers(frame.global_from_ref, 9),
        "cameras": [_camera_to_json(camera) for camera in frame.cameras],
    }
    if frame.lidar is not None:
        content["lidar"] = {"file": frame.lidar, "columns": frame.lidar_columns}
    for name, objects in (
        ("detections", frame.detections),
        ("ground_truth", frame.ground_truth),
    ):
        if objects is not None:
            content[name] = dict(_objects_to_json(objects))
    return content


def _camera_to_json(camera: Camera) -> Json:
    return {
        "name": camera.name,
        "image": camera.image,
        "width": camera.width,
        "height": camera.height,
        "lens": camera.lens,
        "intrinsics": _numbers(camera.intrinsics, 4),
        "camera_from_ref": _numbers(camera.camera_from_ref, 8),
    }


def _objects_to_json(objects: Objects) -> Iterator[tuple[str, Json]]:
    yield "boxes", [[_number(value) for value in row] for row in objects.boxes.round(4).tolist()]
    yield "labels", objects.labels.tolist()
    if objects.scores is not None:
        yield "scores", _numbers(objects.scores, 5)
    if objects.tracks is not None:
        yield "tracks", list(objects.tracks)
    if objects.attributes is not None:
        yield "attributes", list(objects.attributes)


def _numbers(array: Array, decimals: int) -> Json:
    return (array.astype(np.float64).round(decimals) + 0.0).tolist()  # + 0: no -0.0


def _number(value: float) -> float | int | None:
    """None for an unknown number; whole ones without their point."""
    if value != value:
        return None
    return int(value) if value == int(value) else value


def _frame_from_json(content: Mapping[str, Json], num_classes: int) -> Frame:
    token = _text(content["token"], "token", "a frame")
    where = f"frame {token}"
    lidar, time = content.get("lidar"), content.get("time", 0.0)
    if not is_number(time):
        raise ValueError(f"{where}: time must be a number of seconds, got {str(time)[:60]}")
    return Frame(
        token=token,
        scene=_text(content.get("scene", ""), "scene", where),
        time=float(time),
        cameras=tuple(_camera_from_json(camera, where) for camera in content["cameras"]),
        ego_from_ref=_matrix(content.get("ego_from_ref", np.eye(4)), 4, "ego_from_ref", where),
        global_from_ref=_matrix(
            content.get("global_from_ref", np.eye(4)), 4, "global_from_ref", where
        ),
        detections=_objects_from_json(content, "detections", num_classes, where),
        ground_truth=_objects_from_json(content, "ground_truth", num_classes, where),
        lidar=_text(lidar["file"], "file of lidar", where) if lidar else None,
        lidar_columns=int(lidar["columns"]) if lidar else 5,
    )


def _camera_from_json(content: Mapping[str, Json], where: str) -> Camera:
    where = f"{where}, camera {content['name']}"
    lens = content.get("lens", "pinhole")
    if lens not in LENSES:
        raise ValueError(f"{where}: lens must be one of {', '.join(LENSES)}, got {lens!r}")
    width, height = int(content["width"]), int(content["height"])
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"{where}: width and height must be pixels, got {width} and {height}")
    return Camera(
        name=_text(content["name"], "name", where),
        image=_text(content["image"], "image", where),
        width=width,
        height=height,
        intrinsics=_matrix(content["intrinsics"], 3, "intrinsics", where),
        camera_from_ref=_matrix(content["camera_from_ref"], 4, "camera_from_ref", where),
        lens=lens,
    )


def _objects_from_json(
    frame: Mapping[str, Json], name: str, num_classes: int, where: str
) -> Objects | None:
    content = frame.get(name)
    if content is None:
        return None
    where = f"{where}, {name}"
    count = len(content["labels"])
    labels = np.asarray(content["labels"], dtype=np.int64).reshape(-1)
    if count and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(f"{where}: labels must be in [0, {num_classes}), got {labels.tolist()}")
    boxes = _array(content["boxes"], (count, 9), "boxes", where)
    if not np.isfinite(boxes[:, :7]).all() or np.isinf(boxes).any():
        raise ValueError(f"{where}: only velocities may be unknown, a box has another null")
    scores = content.get("scores")
    objects = Objects(
        boxes,
        labels,
        None if scores is None else _array(scores, (count,), "scores", where),
        _texts(content.get("tracks"), count, "tracks", where),
        _texts(content.get("attributes"), count, "attributes", where),
    )
    if objects.scores is None:
        return objects
    return objects.select(np.argsort(-objects.scores, kind="stable"))


def _array(value: Json, shape: tuple[int, ...], key: str, where: str) -> Array:
    array = np.asarray(value, dtype=np.float64)  # null becomes NaN
    array = array.reshape(shape) if array.size == 0 and 0 in shape else array
    if array.shape != shape:
        raise ValueError(f"{where}: {key} must have shape {shape}, got {array.shape}")
    return array


def _matrix(value: Json, side: int, key: str, where: str) -> Array:
    matrix = _array(value, (side, side), key, where)
    if not np.isfinite(matrix).all():
        raise ValueError(f"{where}: {key} has a number that is not finite")
    return matrix


def _text(value: Json, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key} must be a text, got {str(value)[:60]}")
    return value


def _category_from_json(content: Mapping[str, Json]) -> Category:
    name, reach = _text(content["name"], "name", "a class"), content.get("range")
    if reach is not None and not is_number(reach):
        raise ValueError(f"class {name}: range must be metres or null, got {str(reach)[:60]}")
    return Category(name, reach)


def _texts(value: Sequence[Json] | None, count: int, key: str, where: str) -> Any:
    if value is None:
        return None
    if len(value) != count:
        raise ValueError(f"{where}: expected {count} {key}, got {len(value)}")
    return tuple(str(item) for item in value)
