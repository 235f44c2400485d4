"""The JSON tables of a nuScenes-format database: their form, and what they refer to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from det3d.data.nuscenes_index import TABLES as READ_TABLES
from det3d.data.nuscenes_tables import LIDAR, scene_splits
from detr2d.doctor.findings import Finding, gather
from detr2d.doctor.rows import (
    COUNT,
    FILLED,
    INTEGER,
    TEXT,
    TEXTS,
    Row,
    is_number,
    numbers,
    read_list,
    repeated,
    sort_rows,
)


def is_intrinsic(value: Any) -> bool:
    """An empty list, or three lists of three finite numbers."""
    if value == []:
        return True
    return isinstance(value, list) and len(value) == 3 and all(map(numbers(3)[0], value))


def is_side(value: Any) -> bool:
    """A number of pixels: none for what is no image."""
    return value is None or (is_number(value) and 0 <= value < 2**31)


TRUTH = (lambda value: isinstance(value, bool), "true or false")
SIDE = (is_side, "a number of pixels")
POSE = {"translation": numbers(3), "rotation": numbers(4)}
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "category": {"token": FILLED, "name": FILLED},
    "attribute": {"token": FILLED, "name": FILLED},
    "visibility": {"token": FILLED},
    "sensor": {"token": FILLED, "channel": FILLED, "modality": FILLED},
    "calibrated_sensor": {
        "token": FILLED, "sensor_token": FILLED, **POSE,
        "camera_intrinsic": (is_intrinsic, "3 x 3 numbers, or empty"),
    },
    "ego_pose": {"token": FILLED, "timestamp": INTEGER, **POSE},
    "log": {"token": FILLED},
    "scene": {
        "token": FILLED, "name": FILLED, "log_token": TEXT, "nbr_samples": COUNT,
        "first_sample_token": FILLED, "last_sample_token": FILLED,
    },
    "sample": {
        "token": FILLED, "timestamp": INTEGER, "scene_token": FILLED, "prev": TEXT, "next": TEXT,
    },
    "sample_data": {
        "token": FILLED, "sample_token": FILLED, "ego_pose_token": FILLED,
        "calibrated_sensor_token": FILLED, "timestamp": INTEGER, "is_key_frame": TRUTH,
        "filename": FILLED, "height": SIDE, "width": SIDE, "prev": TEXT, "next": TEXT,
    },
    "instance": {
        "token": FILLED, "category_token": FILLED, "nbr_annotations": COUNT,
        "first_annotation_token": FILLED, "last_annotation_token": FILLED,
    },
    "sample_annotation": {
        "token": FILLED, "sample_token": FILLED, "instance_token": FILLED, **POSE,
        "size": numbers(3), "prev": TEXT, "next": TEXT, "num_lidar_pts": COUNT,
        "num_radar_pts": COUNT, "attribute_tokens": TEXTS, "visibility_token": TEXT,
    },
    "map": {"token": FILLED, "filename": FILLED, "log_tokens": TEXTS},
}  # fmt: skip
REFERENCES = (  # table, key, table it refers to, whether it may be empty
    ("instance", "category_token", "category", False),
    ("instance", "first_annotation_token", "sample_annotation", False),
    ("instance", "last_annotation_token", "sample_annotation", False),
    ("calibrated_sensor", "sensor_token", "sensor", False),
    ("scene", "log_token", "log", False),
    ("scene", "first_sample_token", "sample", False),
    ("scene", "last_sample_token", "sample", False),
    ("sample", "scene_token", "scene", False),
    ("sample", "prev", "sample", True),
    ("sample", "next", "sample", True),
    ("sample_data", "sample_token", "sample", False),
    ("sample_data", "ego_pose_token", "ego_pose", False),
    ("sample_data", "calibrated_sensor_token", "calibrated_sensor", False),
    ("sample_data", "prev", "sample_data", True),
    ("sample_data", "next", "sample_data", True),
    ("sample_annotation", "sample_token", "sample", False),
    ("sample_annotation", "instance_token", "instance", False),
    ("sample_annotation", "visibility_token", "visibility", True),
    ("sample_annotation", "prev", "sample_annotation", True),
    ("sample_annotation", "next", "sample_annotation", True),
)
ATTRIBUTE_KINDS = (  # how a category begins, and how its attributes do
    ("vehicle.bicycle", "cycle."),
    ("vehicle.motorcycle", "cycle."),
    ("vehicle.", "vehicle."),
    ("human.", "pedestrian."),
)


@dataclass(frozen=True)
class Tables:
    """The rows of a database that can be read on, by table."""

    root: Path
    version: str
    rows: Mapping[str, list[Row]]

    @property
    def folder(self) -> Path:
        """Where the tables lie."""
        return self.root / self.version

    @cached_property
    def by_token(self) -> Mapping[str, Mapping[str, Row]]:
        """Rows of each table by token; of equal ones the last."""
        return {name: {row["token"]: row for row in rows} for name, rows in self.rows.items()}

    def file(self, table: str) -> Path:
        """The file of a table."""
        return self.folder / f"{table}.json"

    def sensor(self, data: Row) -> Row | None:
        """The sensor of a sample_data row, None if a reference is broken."""
        calibration = self.by_token["calibrated_sensor"].get(data["calibrated_sensor_token"])
        return self.by_token["sensor"].get(calibration["sensor_token"]) if calibration else None

    @cached_property
    def key_frames(self) -> list[tuple[Row, Row]]:
        """Key frames of sample_data with their sensor, but those with broken references."""
        pairs = ((d, self.sensor(d)) for d in self.rows["sample_data"] if d["is_key_frame"])
        return [(data, sensor) for data, sensor in pairs if sensor is not None]

    @cached_property
    def camera_frames(self) -> list[tuple[Row, Row]]:
        """The key frames of cameras."""
        return [(data, s) for data, s in self.key_frames if s["modality"] == "camera"]

    @cached_property
    def lidar_frames(self) -> list[Row]:
        """The key frames of the reference lidar."""
        return [data for data, sensor in self.key_frames if sensor["channel"] == LIDAR]

    def category_of(self, annotation: Row) -> str | None:
        """The name of an annotation's category, None if a reference is broken."""
        instance = self.by_token["instance"].get(annotation["instance_token"])
        category = instance and self.by_token["category"].get(instance["category_token"])
        return category["name"] if category else None


def read_tables(root: Path, version: str) -> tuple[Tables | None, list[Finding]]:
    """All tables, and what is wrong with their form; None if a table that is needed is missing."""
    folder = root / version
    if not folder.is_dir():
        return None, [Finding("error", "file-missing", str(folder), "the folder does not exist")]
    findings: list[Finding] = []
    rows: dict[str, list[Row]] = {}
    for name, schema in SCHEMAS.items():
        content, complaints = read_list(folder / f"{name}.json")
        findings += complaints
        if content is not None and not isinstance(content, list):
            said = f"a table is a list of rows, got {type(content).__name__}"
            findings.append(Finding("error", "no-table", str(folder / f"{name}.json"), said))
        if isinstance(content, list):
            rows[name], broken = sort_rows(content, schema, folder / f"{name}.json", name)
            findings += broken
    if not set(READ_TABLES) <= rows.keys():
        return None, findings
    for name in SCHEMAS:
        rows.setdefault(name, [])
    return Tables(root, version, rows), findings


def tokens(tables: Tables) -> Iterable[Finding]:
    """Tokens that several rows of a table share."""
    for name, rows in tables.rows.items():
        yield from gather(
            "error", "duplicate-token", tables.file(name), repeated(row["token"] for row in rows),
            "tokens that stand more than once",
            "a token names one row; remove or rename the others",
        )  # fmt: skip


def references(tables: Tables) -> Iterable[Finding]:
    """Tokens that refer to rows that are not there."""
    for table, key, target, optional in REFERENCES:
        known = tables.by_token[target]
        lost = [
            f"{row['token']} to {row[key] or 'nothing'}"
            for row in tables.rows[table]
            if row[key] not in known and not (optional and not row[key])
        ]
        yield from gather(
            "error", "dangling-token", tables.file(table), lost,
            f"{key} that refer to no row of {target}",
            f"is {target}.json complete, and of the same database?",
        )  # fmt: skip
    attributes = tables.by_token["attribute"]
    lost = [
        f"{row['token']} to {token}"
        for row in tables.rows["sample_annotation"]
        for token in row["attribute_tokens"]
        if token not in attributes
    ]
    yield from gather(
        "error", "dangling-token", tables.file("sample_annotation"), lost,
        "attribute_tokens that refer to no row of attribute",
    )  # fmt: skip


def attributes(tables: Tables) -> Iterable[Finding]:
    """Annotations with more than one attribute, which the evaluation refuses."""
    yield from gather(
        "warning", "several-attributes", tables.file("sample_annotation"),
        [r["token"] for r in tables.rows["sample_annotation"] if len(r["attribute_tokens"]) > 1],
        "annotations with more than one attribute", "the official evaluation allows one",
    )  # fmt: skip


def attribute_classes(tables: Tables) -> Iterable[Finding]:
    """Attributes of another kind of object: a car that stands like a pedestrian."""
    wrong = []
    for row in tables.rows["sample_annotation"]:
        category = tables.category_of(row) or ""
        wanted = next((w for start, w in ATTRIBUTE_KINDS if category.startswith(start)), None)
        for token in row["attribute_tokens"]:
            name = tables.by_token["attribute"].get(token, {"name": wanted or ""})["name"]
            if wanted is not None and not name.startswith(wanted):
                wrong.append(f"{row['token']}: {category} is {name}")
    yield from gather(
        "warning", "attribute-class", tables.file("sample_annotation"), wrong,
        "attributes of another kind of object",
    )  # fmt: skip


def scenes_in_splits(tables: Tables) -> Iterable[Finding]:
    """Scenes that are part of no split, so that nothing trains on or evaluates them."""
    names = [row["name"] for row in tables.rows["scene"]]
    yield from gather(
        "warning", "duplicate-scene", tables.file("scene"), repeated(names),
        "scene names that stand more than once", "splits choose scenes by name",
    )  # fmt: skip
    try:
        splits = scene_splits(tables.folder, names)
    except ValueError as error:
        yield Finding("error", "no-split", str(tables.folder / "splits.json"), str(error))
        return
    outside = sorted(set(names) - {name for members in splits.values() for name in members})
    yield from gather(
        "warning", "no-split", tables.file("scene"), outside, "scenes that are part of no split",
        f"name them in splits.json beside the tables, or as split; is the version "
        f"{tables.version} the right one?",
    )  # fmt: skip


def empty_tables(tables: Tables) -> Iterable[Finding]:
    """Tables without rows that samples need."""
    needed = ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor")
    yield from gather(
        "error", "empty-list", tables.folder, [n for n in needed if not tables.rows[n]],
        "tables without usable rows",
    )  # fmt: skip
    if not tables.rows["sample_annotation"] and not tables.version.endswith("test"):
        yield Finding(
            "warning", "no-annotations", str(tables.file("sample_annotation")),
            "there is no usable annotation", "a detector cannot learn from this database",
        )  # fmt: skip


def category_names(tables: Tables) -> Iterable[Finding]:
    """Categories that nuScenes does not know, and detection classes without any object."""
    from nuscenes.eval.detection.utils import category_to_detection_name

    used = {tables.category_of(row) for row in tables.rows["sample_annotation"]} - {None}
    foreign = [name for name in sorted(map(str, used)) if category_to_detection_name(name) is None]
    if used and len(foreign) == len(used):
        yield Finding(
            "error", "no-known-category", str(tables.file("category")),
            f"none of the categories is part of the detection task: {', '.join(foreign[:5])}",
            "use nuScenes' names, such as vehicle.car; other objects are left out",
        )  # fmt: skip
        return
    roots = ("animal", "flat.", "human.", "movable_object.", "noise", "static", "vehicle.")
    yield from gather(
        "warning", "unknown-category", tables.file("category"),
        [name for name in foreign if not name.startswith(roots)],
        "categories that nuScenes does not know", "their objects are left out: is it the spelling?",
    )  # fmt: skip
