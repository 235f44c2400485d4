"""Segmentations of a COCO instance file: whether they can be read, and whether boxes hold them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pycocotools import mask as run_lengths

from detr2d.data.coco_files import read_segmentation
from detr2d.doctor.coco import CocoContent
from detr2d.doctor.findings import Finding, gather
from detr2d.doctor.rows import Row

APART = 3.0  # pixels between a box and the bounds of its mask, beside a tenth of its size


def masks(content: CocoContent) -> Iterable[Finding]:
    """Segmentations that cannot be read, are empty, or lie elsewhere than their box."""
    broken, apart, empty, missing = [], [], [], 0
    sizes = content.sizes
    for annotation in content.annotations:
        size = sizes.get(annotation["image_id"])
        segmentation = annotation.get("segmentation")
        if not segmentation:
            missing += 1
        if not segmentation or size is None:
            continue
        try:
            bounds = mask_bounds(segmentation, size)
        except ValueError as error:
            broken.append(f"annotation {annotation['id']}: {error}")
            continue
        if min(bounds[2:]) <= 0:
            empty.append(f"annotation {annotation['id']}")
        elif min(annotation["bbox"][2:]) > 0 and not near(annotation, bounds):
            apart.append(f"annotation {annotation['id']}: box {annotation['bbox']}, mask {bounds}")
    path = content.path
    yield from gather(
        "error", "broken-mask", path, broken, "segmentations that cannot be read",
        "write polygons x1, y1, x2, y2, ... or run lengths of the image's size",
    )  # fmt: skip
    yield from gather(
        "warning", "empty-mask", path, empty, "segmentations without a pixel in the image",
        "remove these annotations or correct their coordinates",
    )  # fmt: skip
    yield from gather(
        "warning", "box-off-mask", path, apart, "boxes that do not bound their mask",
        "one of both is wrong; bbox is x, y, width, height of the same object in the same pixels",
    )  # fmt: skip
    if missing:
        said = f"{missing} of {len(content.annotations)} annotations have no segmentation"
        yield Finding("note", "no-mask", str(path), said, "train boxes only: data.masks needs all")


def mask_bounds(segmentation: Any, size: tuple[int, int]) -> list[float]:
    """x, y, width, height of the pixels of a segmentation. Raises ValueError if unreadable."""
    return [float(side) for side in run_lengths.toBbox(read_segmentation(segmentation, *size))]


def near(annotation: Row, bounds: list[float]) -> bool:
    """Whether all four borders of a box lie near those of its mask."""
    x, y, width, height = annotation["bbox"]
    left, top, wide, high = bounds
    margin = APART + 0.1 * max(width, height)
    pairs = ((x, left), (y, top), (x + width, left + wide), (y + height, top + high))
    return all(abs(first - second) <= margin for first, second in pairs)
