"""What can be wrong with COCO result files, alone and against their annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import box_iou

from detr2d.doctor.coco import CocoContent, as_centre, as_corners, other_format, shift_hint
from detr2d.doctor.findings import Finding, gather
from detr2d.doctor.rows import INTEGER, NUMBER, Row, numbers, read_list, sort_rows

SCHEMA = {"image_id": INTEGER, "category_id": INTEGER, "score": NUMBER}
MOST = 100  # detections of an image that the official evaluation looks at
OVERLAP = 0.5
ENOUGH = 5
READINGS: dict[str, Callable[[Sequence[float]], Sequence[float]]] = {
    "x, y, width, height": lambda box: box,
    "x1, y1, x2, y2": as_corners,
    "centre x, centre y, width, height": as_centre,
}


def examine_coco_results(path: Path, truth: CocoContent | None) -> list[Finding]:
    """All findings of a list of detections; with its annotations also what they tell."""
    content, findings = read_list(path)
    if not isinstance(content, list):
        said = "results are a list of detections"
        return findings or [Finding("error", "no-results", str(path), said)]
    rows, broken = sort_rows(content, SCHEMA, path, "result")
    boxes, malformed = sort_rows(
        [row for row in rows if "bbox" in row or "segmentation" not in row],
        {"bbox": numbers(4)}, path, "result",
    )  # fmt: skip
    findings += [*broken, *malformed, *scores(path, rows), *counts(path, rows, len(content))]
    findings += gather(
        "error", "negative-box", path,
        [f"image {row['image_id']}: {row['bbox']}" for row in boxes if min(row["bbox"][2:]) < 0],
        "boxes of negative width or height", "bbox is x, y, width, height",
    )  # fmt: skip
    if truth is None:
        said = "only the file itself was looked at"
        advice = "--annotations FILE tells about ids and the format of boxes too"
        return [*findings, Finding("note", "no-annotations", str(path), said, advice)]
    return [*findings, *ids(path, rows, truth), *box_format(path, boxes, truth)]


def scores(path: Path, rows: Sequence[Row]) -> Iterable[Finding]:
    """Scores out of range and scores that do not rank."""
    outside = [row["score"] for row in rows if not 0 <= row["score"] <= 1]
    yield from gather(
        "error", "score-range", path, outside, "scores outside 0 to 1",
        "write probabilities, not logits or percent",
    )  # fmt: skip
    if len(rows) > 10 and len({row["score"] for row in rows}) == 1 and rows[0]["score"] < 1:
        said = f"all {len(rows)} scores are {rows[0]['score']:g}"
        advice = "average precision ranks by score: without ranking it means nothing"
        yield Finding("warning", "score-constant", str(path), said, advice)


def counts(path: Path, rows: Sequence[Row], total: int) -> Iterable[Finding]:
    """No detection at all, copies, and more detections than are judged."""
    if not total:
        yield Finding("warning", "no-boxes", str(path), "there is not a single detection")
    copies = Counter(
        (row["image_id"], row["category_id"], row["score"], str(row.get("bbox")))
        for row in rows
        if "segmentation" not in row
    )
    yield from gather(
        "warning", "duplicate-object", path,
        [f"image {key[0]}: {key[3]}" for key, count in copies.items() if count > 1],
        "detections that stand more than once", "were the results of two processes joined twice?",
    )  # fmt: skip
    per_image = Counter(row["image_id"] for row in rows)
    yield from gather(
        "note", "many-detections", path,
        [f"image {image}: {count}" for image, count in per_image.items() if count > MOST],
        f"images with more than {MOST} detections", f"only the best {MOST} are judged",
    )  # fmt: skip


def ids(path: Path, rows: Sequence[Row], truth: CocoContent) -> Iterable[Finding]:
    """Images and categories that the annotations do not have, and images without results."""
    categories = {category["id"] for category in truth.categories}
    for kind, key, known in (
        ("unknown-image", "image_id", set(truth.sizes)),
        ("unknown-category", "category_id", categories),
    ):
        used = {row[key] for row in rows}
        lost = sorted(used - known)
        hint = shift_hint(set(lost), used, known, key.removesuffix("_id"))
        if kind == "unknown-category" and lost and max(used) < len(known):
            hint = "; these look like labels 0, 1, ...: write the ids of the categories"
        advice = f"use the ids of {truth.path.name}{hint}"
        yield from gather("error", kind, path, lost, f"{key} that the annotations lack", advice)
    silent = sorted(set(truth.sizes) - {row["image_id"] for row in rows})
    if rows:
        yield from gather(
            "warning" if len(silent) > len(truth.sizes) / 2 else "note", "image-without-result",
            path, silent, f"images without a detection, of {len(truth.sizes)}",
            "fine if nothing was found there; else a process is missing",
        )  # fmt: skip


def box_format(path: Path, rows: Sequence[Row], truth: CocoContent) -> Iterable[Finding]:
    """Whether boxes are x, y, width, height, by where they meet the annotations."""
    sizes = truth.sizes
    placed = [(row["bbox"], sizes[row["image_id"]]) for row in rows if row["image_id"] in sizes]
    found = {name: overlaps(rows, truth, read) for name, read in READINGS.items()}
    given = found["x, y, width, height"]
    best = max(found, key=lambda name: found[name])
    evidence = ", ".join(f"{count} read as {name}" for name, count in found.items())
    other = other_format(placed)
    if found[best] >= ENOUGH and found[best] > 2 * given:
        said = f"boxes look like {best}: annotated objects that a box overlaps by half: {evidence}"
        yield Finding("error", "box-format", str(path), said, "bbox is x, y, width, height")
    elif other is not None and given < ENOUGH:
        said = f"boxes look like {other}"
        yield Finding("error", "box-format", str(path), said, "bbox is x, y, width, height")
    elif given >= ENOUGH:
        said = f"boxes are x, y, width, height: annotated objects overlapped by half: {evidence}"
        yield Finding("note", "box-convention", str(path), said)


def overlaps(rows: Sequence[Row], truth: CocoContent, read: Callable[[Any], Any]) -> int:
    """How many annotated objects a box of their category overlaps by half, in one reading."""
    found: dict[tuple[int, int], list[Any]] = {}
    for row in rows:
        found.setdefault((row["image_id"], row["category_id"]), []).append(read(row["bbox"]))
    count = 0
    for annotation in truth.annotations:
        boxes = found.get((annotation["image_id"], annotation["category_id"]))
        if boxes:
            pair = (corners([annotation["bbox"]]), corners(boxes))
            count += bool(box_iou(*pair).max() >= OVERLAP)
    return count


def corners(boxes: Sequence[Sequence[float]]) -> torch.Tensor:
    """Boxes (N, 4) x1, y1, x2, y2 of x, y, width, height."""
    tensor = torch.tensor(boxes, dtype=torch.float64)
    return torch.cat([tensor[:, :2], tensor[:, :2] + tensor[:, 2:]], dim=1)
