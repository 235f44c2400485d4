"""A COCO data set as files and folders: annotation files, their images, and what splits share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detr2d.data.paths import is_below
from detr2d.doctor.coco import CocoContent, examine_instances
from detr2d.doctor.coco_masks import masks
from detr2d.doctor.findings import Finding, gather
from detr2d.doctor.images import Look, Wanted, judge_looks, look_at_all, shared_pictures
from detr2d.doctor.panoptic import examine_panoptic
from detr2d.doctor.rows import read_list


@dataclass(frozen=True)
class Part:
    """One annotation file with the folders it refers to; ``maps`` makes it a panoptic one."""

    path: Path
    images: Path
    maps: Path | None = None


def examine_parts(parts: Sequence[Part]) -> list[Finding]:
    """Findings of all files, of their images, and of what they share with each other.

    Files of one kind are splits of one data set: what two of them share is a leak.
    """
    findings: list[Finding] = []
    seen: list[tuple[Part, CocoContent, list[Look]]] = []
    for part in parts:
        content, found = examine_part(part)
        findings += found
        if content is not None:
            looks = look_at_all(part.images, wanted_images(content))
            findings += judge_looks(looks, part.images)
            seen.append((part, content, looks))
    for (first, content, looks), (second, others, theirs) in itertools.combinations(seen, 2):
        if (first.maps is None) == (second.maps is None) and first.path != second.path:
            where = f"{first.path} and {second.path}"
            findings += shared_pictures(looks, theirs, where)
            findings += categories_agree(content, others, where)
    return findings


def examine_part(part: Part) -> tuple[CocoContent | None, list[Finding]]:
    """The rows of one annotation file and its own findings."""
    if part.maps is not None:
        return examine_panoptic(part.path, part.maps)
    content, findings = examine_instances(part.path)
    return content, findings + (list(masks(content)) if content is not None else [])


def wanted_images(content: CocoContent) -> list[Wanted]:
    """The files that a COCO file names, without those that leave the folder."""
    return [
        Wanted(f"image {i['id']} ({i['file_name']})", i["file_name"], (i["height"], i["width"]))
        for i in content.images
        if is_below(i["file_name"])
    ]


def categories_agree(first: CocoContent, second: CocoContent, where: str) -> list[Finding]:
    """Categories that one of two splits lacks or knows under another id."""
    ids = {c["name"]: c["id"] for c in first.categories}
    others = {c["name"]: c["id"] for c in second.categories}
    lacking = sorted(ids.keys() ^ others.keys())
    both = sorted(ids.keys() & others.keys())
    moved = [f"{n}: {ids[n]} and {others[n]}" for n in both if ids[n] != others[n]]
    return gather(
        "warning", "category-differs", where, lacking, "categories that only one split has",
        "a name that is spelt differently is another class",
    ) + gather(
        "note", "category-id-differs", where, moved, "categories with another id in each split",
        "labels follow names, so this is fine here; other tools go by the ids",
    )  # fmt: skip


def find_parts(root: Path, images: Path | None = None) -> list[Part]:
    """The annotation files in a folder, each with the folder that holds most of its images."""
    paths = [
        path
        for folder in (root, root / "annotations", root / "coco" / "annotations")
        for pattern in ("instances*.json", "panoptic*.json")
        for path in sorted(folder.glob(pattern))
    ]
    return [find_part(path, images) for path in paths]


def find_part(path: Path, images: Path | None = None) -> Part:
    """One annotation file with its folders, looked for around it."""
    kind, _, split = path.stem.partition("_")
    panoptic = kind == "panoptic" or has_segments(path)
    bases = [path.parent, *path.parent.parents[:2]]
    names = ("", split, "images", f"images/{split}", "coco/images")
    folders = [base / name for base in bases for name in names]
    maps = None
    if panoptic:
        around = [base / name for base in bases for name in ("panoptic", "maps")]
        named = path.with_suffix("")
        maps = next((folder for folder in (named, *around) if folder.is_dir()), named)
    return Part(path, images or best_folder(path, folders), maps)


def best_folder(path: Path, folders: Sequence[Path]) -> Path:
    """The folder that has most of the first images of an annotation file."""
    content, _ = read_list(path)
    rows = content.get("images") if isinstance(content, dict) else None
    names = [
        row["file_name"]
        for row in (rows if isinstance(rows, list) else [])[:20]
        if isinstance(row, dict) and is_below(row.get("file_name"))
    ]
    counts = [sum((folder / name).is_file() for name in names) for folder in folders]
    return folders[counts.index(max(counts))]


def has_segments(path: Path) -> bool:
    """Whether an annotation file is a panoptic one."""
    content, _ = read_list(path)
    rows = content.get("annotations") if isinstance(content, dict) else None
    first = rows[0] if isinstance(rows, list) and rows else None
    return isinstance(first, dict) and "segments_info" in first
