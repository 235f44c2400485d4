"""The annotated boxes of a database: sizes, headings, places and points."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from det3d.doctor.calibration import rotation
from det3d.doctor.conventions import (
    ENOUGH,
    TYPICAL,
    judge_headings,
    judge_sizes,
    moving_vehicles,
    travel,
)
from det3d.doctor.tables import Tables
from det3d.results.geometry import Array
from detr2d.doctor.findings import Finding, gather
from detr2d.doctor.rows import Row

WRITTEN = ("width", "length", "height")  # the order of sizes in sample_annotation
OUTLIER = 5.0
FAR = 250.0  # metres from the car beyond which nothing is annotated
TYPICALLY_FAR = 120.0
NEAR = 40.0  # metres within which boxes stand on the ground that the car stands on
OFF_GROUND = 0.35  # share of its height by which a box may float or sink


def detection_names(tables: Tables, rows: list[Row]) -> list[str]:
    """The detection class of each annotation, empty for none."""
    from nuscenes.eval.detection.utils import category_to_detection_name

    return [category_to_detection_name(tables.category_of(row) or "") or "" for row in rows]


def sizes(tables: Tables) -> Iterable[Finding]:
    """Sizes that are not positive, in another order, or in another unit."""
    rows, where = tables.rows["sample_annotation"], tables.file("sample_annotation")
    yield from gather(
        "error", "degenerate-box", where,
        [f"{row['token']}: {row['size']}" for row in rows if min(row["size"]) <= 0],
        "boxes without width, length or height", "remove them or correct their size",
    )  # fmt: skip
    if not rows:
        return
    judged = judge_sizes(
        np.array([row["size"] for row in rows], dtype=float), detection_names(tables, rows), WRITTEN
    )
    if judged.swapped:
        yield Finding(
            "error", "size-order", str(where),
            f"sizes look like {', '.join(judged.order)}: {judged.evidence}",
            "size is width, length, height, with length along the heading",
        )  # fmt: skip
    if judged.other_unit:
        yield Finding(
            "error", "size-unit", str(where),
            f"sizes are {judged.scale:.2f} times the usual ones: {judged.evidence}",
            "sizes are whole sides in metres",
        )  # fmt: skip
    if not judged.swapped and not judged.other_unit:
        yield from size_outliers(tables, rows)


def size_outliers(tables: Tables, rows: list[Row]) -> Iterable[Finding]:
    """Boxes with a side five times as long or short as is usual for their class."""
    odd = []
    for row, name in zip(rows, detection_names(tables, rows), strict=True):
        if name not in TYPICAL or name == "trailer" or min(row["size"]) <= 0:
            continue  # trailers are of every size
        length, width, height = TYPICAL[name]
        factors = np.abs(np.log(np.array(row["size"], dtype=float) / (width, length, height)))
        if factors.max() > np.log(OUTLIER):
            odd.append(f"{row['token']}: {name} of {row['size']}")
    yield from gather(
        "warning", "size-outlier", tables.file("sample_annotation"), odd,
        f"boxes with a side {OUTLIER:g} times as long or short as usual",
        "is it the category or the size?",
    )  # fmt: skip


def headings(tables: Tables) -> Iterable[Finding]:
    """Rotations that do not follow the way that objects move."""
    annotations, samples = tables.by_token["sample_annotation"], tables.by_token["sample"]
    pairs = [
        (row, annotations[row["next"]])
        for row in tables.rows["sample_annotation"]
        if row["next"] in annotations
        and {row["sample_token"], annotations[row["next"]]["sample_token"]} <= samples.keys()
    ]
    if not pairs:
        return
    seconds = np.array(
        [
            1e-6 * samples[b["sample_token"]]["timestamp"]
            - 1e-6 * samples[a["sample_token"]]["timestamp"]
            for a, b in pairs
        ]
    )  # fmt: skip
    ways = np.array([np.subtract(b["translation"], a["translation"])[:2] for a, b in pairs])
    velocities = ways / np.where(seconds > 0, seconds, np.inf)[:, None]
    rows = [row for row, _ in pairs]
    moving = moving_vehicles(detection_names(tables, rows), velocities)
    yaws = np.array([yaw_of(row) for row in rows])
    judged = judge_headings(yaws[moving], travel(velocities[moving]))
    if judged.turned:
        yield Finding(
            "error", "yaw", str(tables.file("sample_annotation")),
            f"headings look like {judged.reading}: {judged.evidence}",
            "the x axis of a box points where it drives; rotation is w, x, y, z, global_from_box",
        )  # fmt: skip


def yaw_of(row: Row) -> float:
    """The heading of a box seen from above."""
    matrix = rotation(row)
    return float(np.arctan2(matrix[1, 0], matrix[0, 0]))


def tilted_boxes(tables: Tables) -> Iterable[Finding]:
    """Boxes that lie on their side."""
    tilted = [r["token"] for r in tables.rows["sample_annotation"] if rotation(r)[2, 2] < 0.7]
    yield from gather(
        "warning", "box-tilted", tables.file("sample_annotation"), tilted,
        "boxes that do not stand upright",
        "rotation is w, x, y, z, global_from_box; the evaluation looks at the heading only",
    )  # fmt: skip


def places_in_ego(tables: Tables) -> tuple[list[Row], Array]:
    """Annotations whose car pose is known, and their centres (N, 3) in the car's frame."""
    poses: dict[str, tuple[Array, Array]] = {}
    for data in tables.lidar_frames or [data for data, _ in tables.camera_frames]:
        pose = tables.by_token["ego_pose"].get(data["ego_pose_token"])
        if pose is not None:
            place = np.array(pose["translation"], dtype=float)
            poses.setdefault(data["sample_token"], (rotation(pose), place))
    rows = [row for row in tables.rows["sample_annotation"] if row["sample_token"] in poses]
    centres = [
        (np.array(row["translation"], dtype=float) - poses[row["sample_token"]][1])
        @ poses[row["sample_token"]][0]
        for row in rows
    ]
    return rows, np.array(centres).reshape(-1, 3)


def places(tables: Tables) -> Iterable[Finding]:
    """Boxes in another frame than the global one, far boxes, and boxes off the ground."""
    rows, centres = places_in_ego(tables)
    if not rows:
        return
    where = tables.file("sample_annotation")
    away = np.linalg.norm(centres[:, :2], axis=1)
    written = np.array([np.hypot(*row["translation"][:2]) for row in rows])
    if np.median(away) > TYPICALLY_FAR:
        hint = ""
        if np.median(written) < TYPICALLY_FAR:
            hint = f"; as they are written they lie {np.median(written):.0f} m from the origin"
        yield Finding(
            "error", "box-frame", str(where),
            f"boxes lie {np.median(away):.0f} m (median) from the car{hint}",
            "translation is in the global frame, as the ego poses are",
        )  # fmt: skip
        return
    yield from gather(
        "warning", "box-far", where,
        [f"{row['token']}: {d:.0f} m" for row, d in zip(rows, away, strict=True) if d > FAR],
        "boxes far from the car", "is the translation in metres, in the global frame?",
    )  # fmt: skip
    heights = np.array([row["size"][2] for row in rows], dtype=float)
    near = (away < NEAR) & (heights > 0)
    floating = centres[near, 2] / heights[near] - 0.5
    if near.sum() >= ENOUGH and abs(np.median(floating)) > OFF_GROUND:
        bottom = abs(np.median(floating) + 0.5) < 0.15
        yield Finding(
            "warning", "box-height", str(where),
            f"the lower faces of {int(near.sum())} boxes near the car lie "
            f"{np.median(floating):+.2f} of their height (median) above the ground"
            + ("; translation looks like the bottom of the box, not its centre" if bottom else ""),
            "translation is the centre of the box, and the car's frame lies on the ground",
        )  # fmt: skip
    stray = [
        f"{row['token']}: {centre[2]:+.1f} m"
        for row, centre, d in zip(rows, centres, away, strict=True)
        if d < NEAR and abs(centre[2]) > 15
    ]
    yield from gather("warning", "box-height", where, stray, "boxes far above or below the car")


def points(tables: Tables) -> Iterable[Finding]:
    """Boxes without any lidar or radar point."""
    rows, where = tables.rows["sample_annotation"], tables.file("sample_annotation")
    empty = [r["token"] for r in rows if not r["num_lidar_pts"] + r["num_radar_pts"]]
    share = len(empty) / max(1, len(rows))
    yield from gather(
        "error" if rows and share == 1 else "warning" if share > 0.5 else "note",
        "box-without-points", where, empty,
        f"boxes without lidar and radar points, {share:.0%} of all",
        "the benchmark leaves them out of training and evaluation; write 1 if nobody counted",
    )  # fmt: skip
