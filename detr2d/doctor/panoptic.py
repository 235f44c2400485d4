"""What can be wrong with a COCO panoptic file and its segment maps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from detr2d.data.panoptic_files import read_panoptic, read_segment_map
from detr2d.data.paths import below, is_below
from detr2d.doctor.coco import (
    SCHEMAS,
    CocoContent,
    category_ids,
    category_names,
    file_names,
    image_ids,
    nothing_there,
    read_content,
)
from detr2d.doctor.findings import Finding, Severity, gather, has_errors, refused
from detr2d.doctor.images import DECODED
from detr2d.doctor.rows import COUNT, FILLED, INTEGER, Row, repeated, sort_rows

PANOPTIC: dict[str, dict[str, Any]] = {
    **SCHEMAS,
    "annotations": {
        "image_id": INTEGER,
        "file_name": FILLED,
        "segments_info": (lambda value: isinstance(value, list), "a list of segments"),
    },
}
SEGMENT = {"id": INTEGER, "category_id": INTEGER, "area": COUNT}


def examine_panoptic(path: Path, maps: Path | None) -> tuple[CocoContent | None, list[Finding]]:
    """Everything that is wrong with a panoptic file and, if ``maps`` is given, its segment maps."""
    content, findings = read_content(path, PANOPTIC)
    if content is None:
        return None, findings
    for check in (nothing_there, image_ids, file_names, category_ids, category_names):
        findings += check(content)
    findings += segments(content)
    if maps is not None:
        findings += segment_maps(content, maps)
    if not has_errors(findings):
        findings += refused(path, lambda: read_panoptic(path))
    return content, findings


def segments(content: CocoContent) -> Iterable[Finding]:
    """Rows of segments, what they refer to, and images without annotation or with two."""
    path, annotations = content.path, content.annotations
    known = {category["id"] for category in content.categories}
    images = {image["id"] for image in content.images}
    named = [a["image_id"] for a in annotations]
    lost, double, broken, used = [], [], [], set()
    for annotation in annotations:
        rows, malformed = sort_rows(
            annotation["segments_info"], SEGMENT, path, f"image {annotation['image_id']} segment"
        )
        broken += [finding.message for finding in malformed]
        used |= {row["category_id"] for row in rows}
        place = f"image {annotation['image_id']}: "
        lost += [place + str(r["category_id"]) for r in rows if r["category_id"] not in known]
        double += [place + str(number) for number in repeated(row["id"] for row in rows)]
    yield from gather("error", "malformed-row", path, broken, "images with malformed segments")
    for kind, items, message in (
        ("unknown-image", [n for n in named if n not in images], "annotations of unlisted images"),
        ("unknown-category", lost, "segments of categories that are not listed"),
        ("duplicate-segment-id", double, "segment ids that stand twice in an image"),
        ("duplicate-annotation", repeated(named), "images with more than one annotation"),
    ):
        yield from gather("error", kind, path, items, message, "correct these rows")
    yield from gather(
        "error", "path-escape", path,
        [a["file_name"] for a in annotations if not is_below(a["file_name"])],
        "segment maps that leave their folder", "name files relative to the folder, without ..",
    )  # fmt: skip
    unused = [c["name"] for c in content.categories if c["id"] not in used]
    yield from gather("note", "unused-category", path, unused, "categories without any segment")
    silent = sorted(images - set(named))
    yield from gather(
        "note", "empty-image", path, silent, "images without annotation, which are left out"
    )


def segment_maps(content: CocoContent, maps: Path) -> Iterable[Finding]:
    """Maps that are missing, have another size, or other ids and areas than their rows say."""
    step = max(1, -(-len(content.annotations) // DECODED))
    faults: dict[str, list[str]] = {kind: [] for kind in MAP_WORDS}
    for number, annotation in enumerate(content.annotations):
        size = content.sizes.get(annotation["image_id"])
        if size is None or not is_below(annotation["file_name"]):
            continue
        path = below(maps, annotation["file_name"], "map")
        if not path.is_file():
            faults["map-missing"].append(str(path))
        elif number % step == 0:
            for kind, words in compare_map(path, annotation, size):
                faults[kind].append(f"image {annotation['image_id']}: {words}")
    for kind, items in faults.items():
        message, advice = MAP_WORDS[kind]
        severity: Severity = "warning" if kind in MILD else "error"
        yield from gather(severity, kind, maps, items, message, advice)


MILD = ("map-extra", "map-area")
MAP_WORDS = {
    "map-missing": ("segment maps that are missing", "is the folder of the maps right?"),
    "map-corrupt": ("segment maps that cannot be decoded", "get them again"),
    "map-size": ("segment maps of another size than their image", "make both of one size"),
    "map-id": ("segments without a pixel in their map", "ids are R + 256 G + 65536 B, as PNG"),
    "map-extra": ("pixels that no segment explains", "list the segments, or write 0 for nothing"),
    "map-area": ("areas that are not the count of their pixels", "count the pixels again"),
}


def compare_map(path: Path, annotation: Row, size: tuple[int, int]) -> Iterable[tuple[str, str]]:
    """Kinds of faults of one map and words for each."""
    try:
        ids = read_segment_map(path, "map").numpy()
    except (ValueError, OSError) as error:
        yield "map-corrupt", str(error)
        return
    if ids.shape != size:
        yield "map-size", f"{ids.shape} instead of {size}"
        return
    numbers, counts = np.unique(ids, return_counts=True)
    pixels = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    rows, _ = sort_rows(annotation["segments_info"], SEGMENT, path, "segment")
    listed = {row["id"]: row["area"] for row in rows}
    missing = [number for number in listed if number not in pixels]
    if missing:
        yield "map-id", f"segments {missing[:5]}"
    extra = sorted(pixels.keys() - listed.keys() - {0})
    if extra:
        yield "map-extra", f"ids {extra[:5]}"
    wrong = [n for n, area in listed.items() if n in pixels and area != pixels[n]]
    if wrong:
        yield "map-area", f"segment {wrong[0]} says {listed[wrong[0]]}, has {pixels[wrong[0]]}"
