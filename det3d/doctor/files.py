"""The files that a database names: images, lidar points and maps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from det3d.doctor.tables import Tables
from det3d.results.points import read_points
from detr2d.data.paths import below, is_below
from detr2d.doctor.findings import Finding, gather
from detr2d.doctor.images import DECODED, Look, Wanted, judge_looks, look_at_all

LEAST = 10  # points of a lidar file that saw anything


def camera_looks(tables: Tables) -> list[Look]:
    """Looks at the images of all key frames."""
    wanted = [
        Wanted(
            f"{sensor['channel']} of sample {data['sample_token']}",
            data["filename"],
            (int(data["height"] or 0), int(data["width"] or 0)),
        )
        for data, sensor in tables.camera_frames
    ]
    return look_at_all(tables.root, wanted)


def images(tables: Tables, looks: list[Look]) -> list[Finding]:
    """What is wrong with the images."""
    return judge_looks(looks, tables.root)


def lidar_files(tables: Tables) -> Iterable[Finding]:
    """Lidar files that are missing, broken or empty."""
    missing, broken, empty = [], [], []
    step = max(1, -(-len(tables.lidar_frames) // DECODED))
    for number, data in enumerate(tables.lidar_frames):
        where = f"sample {data['sample_token']}"
        if not is_below(data["filename"]):
            continue
        path = below(tables.root, data["filename"], where)
        if not path.is_file():
            missing.append(str(path))
            continue
        if number % step:
            continue
        try:
            points = read_points(path, 5, where)
        except (ValueError, OSError) as error:
            broken.append(str(error))
            continue
        if len(points) < LEAST:
            empty.append(f"{path}: {len(points)} points")
        elif not np.isfinite(points[:, :3]).all() or np.abs(points[:, :3]).max() > 1e4:
            broken.append(f"{path} has points that are not finite, or beyond 10 km")
    where = str(tables.root)
    yield from gather(
        "error", "lidar-missing", where, missing, "lidar files that are missing",
        "is the download complete? Training on cameras does not need them, pictures do",
    )  # fmt: skip
    yield from gather(
        "error", "lidar-corrupt", where, broken, "lidar files that cannot be read",
        "a file holds five float32 numbers a point: x, y, z, intensity, ring",
    )  # fmt: skip
    yield from gather("warning", "lidar-empty", where, empty, "lidar files with hardly any point")


def escapes(tables: Tables) -> Iterable[Finding]:
    """Names of files that leave the database."""
    for table in ("sample_data", "map"):
        names = [r["filename"] for r in tables.rows[table] if not is_below(r["filename"])]
        yield from gather(
            "error", "path-escape", tables.file(table), names, "file names that leave the database",
            "name files relative to its root, without ..; the readers refuse these",
        )  # fmt: skip


def maps(tables: Tables) -> Iterable[Finding]:
    """Map pictures that are missing."""
    names = [row["filename"] for row in tables.rows["map"] if is_below(row["filename"])]
    missing = [name for name in names if not (tables.root / name).is_file()]
    yield from gather(
        "warning", "map-missing", tables.root, missing, "map files that are missing",
        "the official devkit wants them when it opens the database; an empty picture will do",
    )  # fmt: skip
