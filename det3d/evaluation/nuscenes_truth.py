"""The annotations that the nuScenes evaluation judges by, as arrays in the global frame.

They are read from the tables once and kept beside the index, in float64: the index itself holds
float32 boxes in the frame of each sample, for training.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from det3d.data.nuscenes_index import NuScenesIndex, naming
from det3d.data.nuscenes_rows import find, integer_of, read_table, text_of
from det3d.data.nuscenes_tables import box_of, detection_label, velocities
from det3d.geometry import quaternion_to_rotation

Array = np.ndarray

RACK = -2
"""Label of a bicycle rack; what stands in one is not judged."""


@dataclass(frozen=True)
class JudgedObjects:
    """Annotations of all samples, in the order of the tables.

    rows (A,) row of the sample in the index; labels (A,), ``RACK`` for bicycle racks; centres
    (A, 3), sizes (A, 3) (width, length, height) in metres; rotations (A, 4) quaternions w x y z;
    velocities (A, 2) in m/s, NaN where unknown; points (A,) of lidar and radar; attributes (A,)
    UTF-8, empty where there is none.
    """

    rows: Array
    labels: Array
    centres: Array
    sizes: Array
    rotations: Array
    velocities: Array
    points: Array
    attributes: Array

    def select(self, keep: Array) -> JudgedObjects:
        """Those chosen by a mask (A,) or by positions."""
        return JudgedObjects(*(getattr(self, field.name)[keep] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.rows)


def open_objects(index: NuScenesIndex, root: Path) -> JudgedObjects:
    """The annotations of the database that ``index`` was made from, read once and kept by it."""
    kept = index.directory / "judged_objects.npz"
    if not kept.is_file():
        with naming(root / index.version):
            objects = read_objects(index, root / index.version)
        partial = kept.with_name(f".{kept.name}.{os.getpid()}.npz")
        np.savez(partial, **{field.name: getattr(objects, field.name) for field in fields(objects)})
        os.replace(partial, kept)
    with np.load(kept) as arrays:
        return JudgedObjects(*(arrays[field.name] for field in fields(JudgedObjects)))


def read_objects(index: NuScenesIndex, tables: Path) -> JudgedObjects:
    """The annotations in the JSON tables. Raises ValueError for more than one attribute."""
    attributes = dict(
        read_table(tables / "attribute.json", lambda r: (text_of(r, "token"), text_of(r, "name")))
    )
    categories = dict(
        read_table(tables / "category.json", lambda r: (text_of(r, "token"), judged_label(r)))
    )
    labels = dict(
        read_table(
            tables / "instance.json",
            lambda row: (
                text_of(row, "token"),
                find(categories, row["category_token"], "category", "it"),
            ),
        )
    )
    rows = read_table(
        tables / "sample_annotation.json", _keep(index.rows_by_token, labels, attributes)
    )
    columns = list(zip(*rows, strict=True)) if rows else [()] * 8
    own = {token: i for i, token in enumerate(columns[0])}
    own[""] = -1  # no neighbour
    before, after = (
        np.array([find(own, t, "sample_annotation", "a neighbour") for t in column], dtype=np.int64)
        for column in columns[1:3]
    )
    sample = np.array(columns[3], dtype=np.int64)
    numbers = np.array(columns[6], dtype=np.float64).reshape(-1, 10)
    return JudgedObjects(
        rows=sample,
        labels=np.array(columns[4], dtype=np.int64),
        centres=numbers[:, :3],
        sizes=numbers[:, 3:6],
        rotations=numbers[:, 6:],
        velocities=velocities(numbers[:, :2], index.sample_times[sample], before, after),
        points=np.array(columns[5], dtype=np.int64),
        attributes=np.array([name.encode() for name in columns[7]], dtype="S64"),
    )


def judged_label(category: dict[str, Any]) -> int:
    """The label of a category in the detection task, ``RACK``, or -1."""
    return RACK if category["name"] == "static_object.bicycle_rack" else detection_label(category)


def _keep(
    samples: dict[str, int], labels: dict[str, int], attributes: dict[str, str]
) -> Callable[[dict[str, Any]], tuple[Any, ...] | None]:
    def keep(row: dict[str, Any]) -> tuple[Any, ...] | None:
        user = f"sample_annotation {row['token']}"
        label = find(labels, row["instance_token"], "instance", user)
        if label == -1:
            return None
        names = [find(attributes, t, "attribute", user) for t in row["attribute_tokens"]]
        if len(names) > 1 and label != RACK:
            raise ValueError(f"{user} has {len(names)} attributes, expected one at most")
        sample = find(samples, row["sample_token"], "sample", user)
        points = integer_of(row, "num_lidar_pts") + integer_of(row, "num_radar_pts")
        before, after = text_of(row, "prev"), text_of(row, "next")
        name = names[0] if names else ""
        return text_of(row, "token"), before, after, sample, label, points, box_of(row), name

    return keep


def headings(rotations: Array) -> Array:
    """Heading (N,) of quaternions (N, 4), w x y z: that of the turned x axis seen from above."""
    matrices = quaternion_to_rotation(torch.from_numpy(rotations).reshape(-1, 4)).numpy()
    return np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])


def inside(rows: Array, points: Array, boxes: JudgedObjects) -> Array:
    """Whether points (N, 3) of samples ``rows`` (N,) lie in any of the boxes of their sample."""
    found = np.zeros(len(points), dtype=bool)
    if not len(boxes) or not len(points):
        return found
    turned = quaternion_to_rotation(torch.from_numpy(boxes.rotations)).numpy()
    halves = boxes.sizes[:, [1, 0, 2]] / 2
    for row, centre, rotation, half in zip(boxes.rows, boxes.centres, turned, halves, strict=True):
        own = np.flatnonzero(rows == row)
        local = (points[own] - centre) @ rotation
        found[own] |= (np.abs(local) <= half).all(axis=1)
    return found
