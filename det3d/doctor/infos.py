"""Info files of mmdet3d, of both generations: which convention their boxes are written in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from det3d.doctor.boxes import Sample, judge_pairs, match
from det3d.doctor.calibration import INTRINSIC_WORDS, intrinsic_faults
from det3d.doctor.conventions import (
    ENOUGH,
    GIVEN,
    NAMES,
    judge_headings,
    judge_sizes,
    moving_vehicles,
    travel,
)
from det3d.doctor.pickled import read_plain_pickle
from det3d.geometry import is_rigid, make_transform
from det3d.results.geometry import Array
from detr2d.doctor.findings import Finding, gather
from detr2d.doctor.rows import read_list, repeated

OLD = "width, length, height and yaw = -ours - pi/2 (mmdet3d before 1.0)"
NEW = "length, width, height and yaw counter-clockwise from +x (mmdet3d from 1.0, and ours)"
LARGEST = 1e12  # of boxes and intrinsics
LIDAR_HEIGHT = (1.2, 2.4)  # metres above the ground that a lidar on a car may stand


@dataclass(frozen=True)
class Info:
    """One sample: boxes (N, 7) and velocities (N, 2) as written, names, and named transforms."""

    token: str
    boxes: Array
    velocities: Array
    names: tuple[str, ...]
    transforms: Mapping[str, Array]
    intrinsics: Mapping[str, Array]


def is_infos(content: Any) -> bool:
    """Whether JSON content is an info file or one entry of it."""
    return isinstance(content, dict) and bool({"infos", "data_list", "instances"} & content.keys())


def examine_infos(path: Path, truth: Sequence[Sample] | None = None) -> list[Finding]:
    """All findings of an info file; ``truth`` are its samples as we read them, in lidar frames."""
    try:
        infos, findings = read_infos(path)
    except (ValueError, OSError) as error:
        advice = "an info file holds infos (mmdet3d before 1.0) or data_list (from 1.0)"
        return [Finding("error", "refused", str(path), str(error), advice)]
    where = str(path)
    findings += gather(
        "error", "token-twice", path, repeated(info.token for info in infos),
        "samples that stand twice", "each sample has one entry",
    )  # fmt: skip
    findings += matrices(infos, where)
    findings += convention(infos, where, truth)
    return findings


def read_infos(path: Path) -> tuple[list[Info], list[Finding]]:
    """The entries of an info file. Raises ValueError if it is none."""
    if path.suffix in (".pkl", ".pickle"):
        content = read_plain_pickle(path)
    else:
        content, findings = read_list(path)
        if findings:
            raise ValueError(findings[0].message)
    if not is_infos(content):
        raise ValueError(f"{path} is no info file: expected infos or data_list")
    classes = class_list(content)
    key = next((key for key in ("infos", "data_list") if key in content), None)
    entries = [content] if key is None else content[key]
    if not isinstance(entries, list | tuple):
        raise ValueError(f"{path}: {key} must be a list, got {str(entries)[:60]}")
    infos, broken = [], []
    for number, entry in enumerate(entries):
        try:
            infos.append(old_info(entry) if "gt_boxes" in entry else new_info(entry, classes))
        except ValueError as error:
            broken.append(f"entry {number}: {error}")
        except (TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            broken.append(f"entry {number}: {type(error).__name__} {error}")
    advice = "expected gt_boxes, gt_names, gt_velocity, or instances with bbox_3d"
    empty = [] if len(entries) else [key]
    return infos, [
        *gather("error", "empty-list", path, empty, "lists without usable rows"),
        *gather("error", "malformed-row", path, broken, "malformed entries", advice),
    ]


def class_list(content: Mapping[str, Any]) -> list[str]:
    """The class names of an info file, none if it has none. Raises ValueError for other values."""
    named = content.get("metainfo")
    meta: Mapping[str, Any] = named if isinstance(named, dict) else content
    names = meta.get("classes") or meta.get("CLASSES") or meta.get("categories") or ()
    if not isinstance(names, list | tuple | dict):
        raise ValueError(f"classes or categories must be a list of names, got {str(names)[:60]}")
    return list(map(str, names))


def old_info(entry: Mapping[str, Any]) -> Info:
    """An entry of mmdet3d before 1.0."""
    boxes = finite(rows_of(entry["gt_boxes"], 7, "gt_boxes"), "gt_boxes")
    velocity = entry.get("gt_velocity")
    transforms, intrinsics = {}, {}
    for name, camera in entry.get("cams", {}).items():
        turn = shaped(camera["sensor2lidar_rotation"], (3, 3), f"sensor2lidar_rotation of {name}")
        place = shaped(camera["sensor2lidar_translation"], (3,), f"translation of {name}")
        transforms[name] = make_transform(torch.from_numpy(turn), torch.from_numpy(place)).numpy()
        lens = shaped(camera["cam_intrinsic"], (3, 3), f"cam_intrinsic of {name}")
        intrinsics[name] = finite(lens, f"cam_intrinsic of {name}")
    if velocity is None:
        velocity = np.full((len(boxes), 2), np.nan)
    velocities = rows_of(velocity, 2, "gt_velocity")
    names = tuple(map(str, entry["gt_names"]))
    if not len(boxes) == len(velocities) == len(names):
        counts = f"{len(boxes)}, {len(names)} and {len(velocities)}"
        raise ValueError(f"gt_boxes, gt_names and gt_velocity must be as many, got {counts}")
    return Info(str(entry["token"]), boxes, velocities, names, transforms, intrinsics)


def new_info(entry: Mapping[str, Any], classes: Sequence[str]) -> Info:
    """An entry of mmdet3d from 1.0 on; labels of -1 are of no class."""
    instances, images = entry["instances"], entry.get("images", {})
    unknown = (np.nan, np.nan)
    velocities = [
        [np.nan if value is None else value for value in instance.get("velocity", unknown)]
        for instance in instances
    ]
    poses = {n: i["lidar2cam"] for n, i in images.items() if "lidar2cam" in i}
    lenses = {n: i["cam2img"] for n, i in images.items() if "cam2img" in i}
    return Info(
        token=str(entry.get("token", entry.get("sample_idx"))),
        boxes=finite(rows_of([i["bbox_3d"] for i in instances], 7, "bbox_3d"), "bbox_3d"),
        velocities=rows_of(velocities, 2, "velocity"),
        names=tuple(name_of(instance, classes) for instance in instances),
        transforms={name: np.asarray(pose, dtype=float) for name, pose in poses.items()},
        intrinsics={name: lens_of(lens, f"cam2img of {name}") for name, lens in lenses.items()},
    )


def rows_of(value: Any, columns: int, what: str) -> Array:
    """Numbers (N, columns); an empty list has no rows. Raises ValueError for another shape."""
    array = np.asarray(value, dtype=float)
    if not array.size:
        return np.zeros((0, columns))
    if array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(f"{what} must have shape (N, {columns}), got {array.shape}")
    return array


def shaped(value: Any, shape: tuple[int, ...], what: str) -> Array:
    """Numbers of one shape. Raises ValueError for another one."""
    array = np.asarray(value, dtype=float)
    if array.shape != shape:
        raise ValueError(f"{what} must have shape {shape}, got {array.shape}")
    return array


def lens_of(value: Any, what: str) -> Array:
    """Intrinsics (3, 3) of a matrix of three or four rows. Raises ValueError for another one."""
    array = np.asarray(value, dtype=float)
    return finite(shaped(array[:3, :3] if array.ndim == 2 else array, (3, 3), what), what)


def finite(array: Array, what: str) -> Array:
    """The same numbers. Raises ValueError if one of them is none that can be reckoned with."""
    if not (np.abs(array) < LARGEST).all():
        raise ValueError(f"{what} has numbers that are not finite, or beyond {LARGEST:g}")
    return array


def name_of(instance: Mapping[str, Any], classes: Sequence[str]) -> str:
    """The class of an instance, empty for none."""
    if "class_name" in instance:
        return str(instance["class_name"])
    label = instance["bbox_label_3d"]
    return str(classes[label]) if 0 <= label < len(classes) else ""


def matrices(infos: Sequence[Info], where: str) -> Iterable[Finding]:
    """Transforms that are no rotation, and intrinsics that are no pinhole matrix."""
    stiff, faults = [], []
    for info in infos:
        for name, matrix in info.transforms.items():
            good = matrix.shape == (4, 4) and np.isfinite(matrix).all()
            if not good or not bool(is_rigid(torch.from_numpy(matrix), 1e-3)):
                stiff.append(f"sample {info.token}: {name}")
        for name, matrix in info.intrinsics.items():
            wanted = (round(2 * matrix[1, 2]), round(2 * matrix[0, 2]))  # its size is not said
            faults += [
                f"sample {info.token}, {name}: {words}"
                for kind, words in intrinsic_faults(matrix.tolist(), wanted)
                if kind == "intrinsics-form"
            ]
    yield from gather(
        "error", "no-rotation", where, stiff, "transforms that are no rotation with a translation"
    )
    yield from gather(
        "error", "intrinsics-form", where, faults, *INTRINSIC_WORDS["intrinsics-form"]
    )


def convention(
    infos: Sequence[Info], where: str, truth: Sequence[Sample] | None
) -> Iterable[Finding]:
    """The order of sizes, zero and sign of yaw, and what z is, with the evidence for each."""
    boxes = np.concatenate([info.boxes for info in infos] or [np.zeros((0, 7))])
    velocities = np.concatenate([info.velocities for info in infos] or [np.zeros((0, 2))])
    names = [name for info in infos for name in info.names]
    if not len(boxes):
        yield Finding("warning", "no-boxes", where, "there is not a single box")
        return
    sizes = judge_sizes(boxes[:, 3:6], names, NAMES)
    width_first = sizes.swapped and sizes.order == ("width", "length", "height")
    moving = moving_vehicles(names, velocities)
    headings = judge_headings(boxes[moving, 6], travel(velocities[moving]))
    evidence = f"{sizes.evidence}; {headings.evidence}" if headings.count else sizes.evidence
    if sizes.count < ENOUGH:
        yield Finding("note", "box-convention", where, f"too few known objects to tell: {evidence}")
        return
    fits = headings.follow("-yaw - pi/2" if width_first else GIVEN)
    if fits and (width_first or not sizes.swapped):
        said = f"boxes are {OLD if width_first else NEW}: {evidence}"
        yield Finding("note", "box-convention", where, said + height_words(infos))
    else:
        said = (
            f"boxes follow neither convention of mmdet3d: sizes look like "
            f"{', '.join(sizes.order)}, headings like {headings.reading}: {evidence}"
        )
        yield Finding("error", "box-convention", where, said, f"expected {NEW}, or {OLD}")
    if sizes.other_unit:
        said = f"sizes are {sizes.scale:.2f} times the usual ones: {sizes.evidence}"
        yield Finding("error", "size-unit", where, said, "sizes are whole sides in metres")
    if truth is not None:
        yield from against_truth(infos, where, truth, width_first)


def height_words(infos: Sequence[Info]) -> str:
    """What z is, by where the lower faces of near boxes then lie; empty if it cannot be told."""
    boxes = np.concatenate([info.boxes for info in infos])
    near = boxes[np.hypot(boxes[:, 0], boxes[:, 1]) < 30]
    if len(near) < ENOUGH:
        return ""
    centre, bottom = -np.median(near[:, 2] - near[:, 5] / 2), -np.median(near[:, 2])
    if LIDAR_HEIGHT[0] < centre < LIDAR_HEIGHT[1]:
        return f"; z is the centre: lower faces lie {centre:.1f} m below the lidar then"
    if LIDAR_HEIGHT[0] < bottom < LIDAR_HEIGHT[1]:
        return f"; z is the lower face, which lies {bottom:.1f} m below the lidar then"
    return ""


def against_truth(
    infos: Sequence[Info], where: str, truth: Sequence[Sample], width_first: bool
) -> Iterable[Finding]:
    """The boxes, turned to our convention, against the annotations of the database."""
    known = {sample.token for sample in truth}
    unknown = [info.token for info in infos if info.token not in known]
    yield from gather(
        "error", "token-unknown", where, unknown, "samples that the database does not have"
    )
    missing = sorted(known - {info.token for info in infos})
    yield from gather(
        "note", "token-missing", where, missing, "samples of the database without entry"
    )
    samples = []
    for info in infos:
        boxes = np.hstack([info.boxes, info.velocities])
        if width_first:
            boxes[:, [3, 4]] = boxes[:, [4, 3]]
            boxes[:, 6] = -boxes[:, 6] - np.pi / 2
        samples.append(Sample(info.token, boxes, info.names))
    yield from judge_pairs(match(samples, truth), where)
