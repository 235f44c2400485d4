"""What can be wrong with a COCO instance file; one function per kind of fault."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detr2d.data.coco_files import read_coco
from detr2d.data.paths import is_below
from detr2d.doctor.findings import Finding, gather, has_errors, refused
from detr2d.doctor.rows import (
    FILLED,
    INTEGER,
    POSITIVE,
    Row,
    numbers,
    read_list,
    repeated,
    sort_rows,
)

TOLERANCE = 1.5  # pixels that a box may reach beyond its image: annotation tools round
MANY = 0.25  # share of boxes from which a fault looks like another box format
SCHEMAS: dict[str, dict[str, Any]] = {
    "images": {"id": INTEGER, "file_name": FILLED, "height": POSITIVE, "width": POSITIVE},
    "categories": {"id": INTEGER, "name": FILLED},
    "annotations": {
        "id": INTEGER, "image_id": INTEGER, "category_id": INTEGER, "bbox": numbers(4),
    },
}  # fmt: skip


@dataclass(frozen=True)
class CocoContent:
    """The rows of one COCO file that can be read on."""

    path: Path
    images: list[Row]
    categories: list[Row]
    annotations: list[Row]

    @property
    def sizes(self) -> dict[int, tuple[int, int]]:
        """Height and width of each image id."""
        return {image["id"]: (image["height"], image["width"]) for image in self.images}


def read_content(
    path: Path, schemas: dict[str, dict[str, Any]] | None = None
) -> tuple[CocoContent | None, list[Finding]]:
    """The rows of a COCO file and what is wrong with their form; None if there are none."""
    content, findings = read_list(path)
    if findings:
        return None, findings
    schemas = schemas or SCHEMAS
    lacking = [
        key
        for key in schemas
        if not (isinstance(content, dict) and isinstance(content.get(key), list))
    ]
    if lacking:
        advice = "a COCO file is an object with these lists"
        return None, gather(
            "error", "no-coco-file", path, lacking, "lists that are missing", advice
        )
    columns = {}
    for key, schema in schemas.items():
        columns[key], broken = sort_rows(content[key], schema, path, key)
        findings += broken
    return CocoContent(path=path, **columns), findings


def examine_instances(path: Path) -> tuple[CocoContent | None, list[Finding]]:
    """Everything that is wrong with an instance file itself, its images left aside."""
    content, findings = read_content(path)
    if content is None:
        return None, findings
    for check in CHECKS:
        findings += check(content)
    if not has_errors(findings):
        findings += refused(path, lambda: read_coco(path))
    return content, findings


def nothing_there(content: CocoContent) -> Iterable[Finding]:
    """No images, categories or annotations at all."""
    lists = {"images": content.images, "categories": content.categories}
    empty = [name for name, rows in lists.items() if not rows]
    yield from gather("error", "empty-list", content.path, empty, "lists without usable rows")
    if not content.annotations and content.images:
        said, advice = "there is no usable annotation", "a detector cannot learn from it"
        yield Finding("warning", "no-annotations", str(content.path), said, advice)


def image_ids(content: CocoContent) -> Iterable[Finding]:
    """Ids that several images share."""
    yield from gather(
        "error", "duplicate-image-id", content.path,
        repeated(image["id"] for image in content.images),
        "image ids that appear more than once",
        "give every image an id of its own, and its annotations with it",
    )  # fmt: skip


def file_names(content: CocoContent) -> Iterable[Finding]:
    """Names that several images share, and names that leave the image folder."""
    names = [image["file_name"] for image in content.images]
    yield from gather(
        "warning", "duplicate-file-name", content.path, repeated(names),
        "image files that are listed more than once",
        "join the rows: half of the objects are unlabelled in each of them",
    )  # fmt: skip
    yield from gather(
        "error", "path-escape", content.path, [name for name in names if not is_below(name)],
        "file names that leave the image folder",
        "name files relative to the image folder, without ..; the readers refuse these",
    )  # fmt: skip


def category_ids(content: CocoContent) -> Iterable[Finding]:
    """Ids that several categories share, and gaps between ids."""
    ids = [category["id"] for category in content.categories]
    yield from gather(
        "error", "duplicate-category-id", content.path, repeated(ids),
        "category ids that appear more than once", "give every category an id of its own",
    )  # fmt: skip
    if ids and max(ids) - min(ids) + 1 > len(set(ids)):
        yield Finding(
            "note", "category-id-gap", str(content.path),
            f"{len(set(ids))} category ids lie between {min(ids)} and {max(ids)}, with gaps",
            "nothing to do here: labels follow the names, never id - 1",
        )  # fmt: skip


def category_names(content: CocoContent) -> Iterable[Finding]:
    """Names that are equal or differ in case and spaces only."""
    names = [" ".join(c["name"].lower().split()) for c in content.categories]
    yield from gather(
        "warning", "duplicate-category-name", content.path, repeated(names),
        "category names that stand more than once",
        "join them, or give them names that tell them apart",
    )  # fmt: skip


def annotation_ids(content: CocoContent) -> Iterable[Finding]:
    """Ids that several annotations share; id 0, which the official evaluation loses."""
    ids = [annotation["id"] for annotation in content.annotations]
    yield from gather(
        "error", "duplicate-annotation-id", content.path, repeated(ids),
        "annotation ids that appear more than once",
        "number the annotations anew: the official evaluation mixes these up",
    )  # fmt: skip
    if 0 in ids:
        yield Finding(
            "note", "annotation-id-zero", str(content.path), "an annotation has the id 0",
            "start at 1: pycocotools takes 0 for unmatched",
        )  # fmt: skip


def image_references(content: CocoContent) -> Iterable[Finding]:
    """Annotations of images that are not there."""
    known = content.sizes
    lost = [a for a in content.annotations if a["image_id"] not in known]
    yield from gather(
        "error", "unknown-image", content.path,
        [f"annotation {a['id']} of image {a['image_id']}" for a in lost],
        "annotations of images that are not listed",
        "list the images or remove the annotations" + shift_hint({a["image_id"] for a in lost},
        {a["image_id"] for a in content.annotations}, set(known), "image"),
    )  # fmt: skip


def category_references(content: CocoContent) -> Iterable[Finding]:
    """Annotations of categories that are not there; ids that are off by one."""
    known = {category["id"] for category in content.categories}
    lost = [a for a in content.annotations if a["category_id"] not in known]
    yield from gather(
        "error", "unknown-category", content.path,
        [f"annotation {a['id']} of category {a['category_id']}" for a in lost],
        "annotations of categories that are not listed",
        "list the categories or correct the ids" + shift_hint({a["category_id"] for a in lost},
        {a["category_id"] for a in content.annotations}, known, "category"),
    )  # fmt: skip


def shift_hint(lost: set[int], used: set[int], known: set[int], name: str) -> str:
    """Words for ids that would all be known if they were one larger or smaller."""
    for step in (1, -1):
        if lost and {number + step for number in used} <= known:
            return f"; every {name} id would be known if it were {step:+d}: it looks off by one"
    return ""


def degenerate_boxes(content: CocoContent) -> Iterable[Finding]:
    """Boxes without width or height, and negative ones."""
    for severity, kind, message, advice, test in (
        (
            "error", "negative-box", "boxes of negative width or height",
            "bbox is x, y, width, height with the top left corner first", lambda s: s < 0,
        ),
        (
            "warning", "degenerate-box", "boxes without width or height",
            "remove them: nothing can be learned from them", lambda s: s == 0,
        ),
    ):  # fmt: skip
        found = [
            f"annotation {a['id']}: {a['bbox']}"
            for a in content.annotations
            if test(min(a["bbox"][2:]))
        ]
        yield from gather(severity, kind, content.path, found, message, advice)  # type: ignore[arg-type]


def boxes_on_images(content: CocoContent) -> Iterable[Finding]:
    """Boxes beyond their image, and boxes that seem to be written in another format."""
    sizes = content.sizes
    placed = [
        (a, sizes[a["image_id"]])
        for a in content.annotations
        if a["image_id"] in sizes and min(a["bbox"][2:]) > 0
    ]
    crossing = [(a, size) for a, size in placed if not fits(a["bbox"], size)]
    other = other_format([(a["bbox"], size) for a, size in placed])
    if other is not None:
        said = f"boxes look like {other}, of {len(placed)} boxes"
        yield Finding(
            "error", "box-format", str(content.path), said,
            "COCO's bbox is x, y, width, height in pixels of the listed image size",
        )  # fmt: skip
        return
    outside = [(a, size) for a, size in crossing if not touches(a["bbox"], size)]
    names = {id(a) for a, _ in outside}
    yield from gather(
        "error", "box-outside", content.path, map(describe, outside),
        "boxes that lie outside their image", "correct the boxes or the size of the image",
    )  # fmt: skip
    yield from gather(
        "warning", "box-beyond-border", content.path,
        map(describe, (pair for pair in crossing if id(pair[0]) not in names)),
        "boxes that reach beyond their image", "cut them at the border of the image",
    )  # fmt: skip


def describe(pair: tuple[Row, tuple[int, int]]) -> str:
    """An annotation and the size of its image in words."""
    annotation, (height, width) = pair
    return f"annotation {annotation['id']}: {annotation['bbox']} in {height} x {width}"


def fits(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box x, y, width, height lies in an image of (height, width)."""
    x, y, width, height = box
    return (
        min(x, y) >= -TOLERANCE
        and x + width <= size[1] + TOLERANCE
        and y + height <= size[0] + TOLERANCE
    )


def touches(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box x, y, width, height has a part in an image of (height, width)."""
    x, y, width, height = box
    return x < size[1] and y < size[0] and x + width > 0 and y + height > 0


def other_format(boxes: Sequence[tuple[Sequence[float], tuple[int, int]]]) -> str | None:
    """Another format that fits the images where x, y, width, height does not; None if none does."""
    if len(boxes) >= 2 and all(max(box) <= 1.0 for box, _ in boxes):
        return "shares of the image size instead of pixels (no number is above 1)"
    wrong = sum(not fits(box, size) for box, size in boxes)
    if wrong < max(2, MANY * len(boxes)):
        return None
    corners = sum(
        box[2] > box[0] and box[3] > box[1] and fits(as_corners(box), size) for box, size in boxes
    )
    centres = sum(fits(as_centre(box), size) for box, size in boxes)
    best, words = max((corners, "x1, y1, x2, y2"), (centres, "centre x, centre y, width, height"))
    if best < 0.95 * len(boxes) or best <= len(boxes) - wrong:
        return None
    return f"{words}: {best} fit their image then, {len(boxes) - wrong} as x, y, width, height"


def as_corners(box: Sequence[float]) -> list[float]:
    """x, y, width, height of x1, y1, x2, y2."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def as_centre(box: Sequence[float]) -> list[float]:
    """x, y, width, height of centre x, centre y, width, height."""
    return [box[0] - box[2] / 2, box[1] - box[3] / 2, box[2], box[3]]


def areas(content: CocoContent) -> Iterable[Finding]:
    """Areas that are missing, not positive, or larger than their box."""
    listed = [a for a in content.annotations if "area" in a]
    if len(listed) < len(content.annotations):
        yield Finding(
            "note", "area-missing", str(content.path),
            f"{len(content.annotations) - len(listed)} annotations have no area",
            "the area of the box is taken, which decides who counts as small",
        )  # fmt: skip
    wrong = [a for a in listed if not area_fits(a)]
    yield from gather(
        "warning", "area", content.path,
        [f"annotation {a['id']}: {str(a['area'])[:30]} in a box {a['bbox']}" for a in wrong],
        "areas that do not fit their box",
        "area counts the pixels of the object; it sorts objects into small, medium and large",
    )  # fmt: skip


def area_fits(annotation: Row) -> bool:
    """Whether an area is positive and, up to rounding, not above that of the box."""
    area, (_, _, width, height) = annotation["area"], annotation["bbox"]
    if isinstance(area, bool) or not isinstance(area, int | float) or not math.isfinite(area):
        return False
    if min(width, height) <= 0:
        return True  # the box is what is wrong
    return 0 < area <= 1.05 * (width + 2) * (height + 2)


def crowds(content: CocoContent) -> Iterable[Finding]:
    """Marks that are neither 0 nor 1, and images or files that hold crowds only."""
    strange = [a for a in content.annotations if a.get("iscrowd", 0) not in (0, 1)]
    yield from gather(
        "error", "crowd-mark", content.path,
        [f"annotation {a['id']}: {str(a['iscrowd'])[:30]!r}" for a in strange],
        "iscrowd that is neither 0 nor 1", "write 0 for an object and 1 for a crowd",
    )  # fmt: skip
    alone: dict[int, bool] = {}
    for annotation in content.annotations:
        crowd = bool(annotation.get("iscrowd", 0))
        alone[annotation["image_id"]] = alone.get(annotation["image_id"], True) and crowd
    found = [number for number, only in alone.items() if only]
    everywhere = bool(found) and len(found) == len(alone)
    share = ", which is every image with objects" if everywhere else ""
    yield from gather(
        "error" if everywhere else "warning", "crowd-only", content.path, found,
        "images whose annotations are all crowds" + share,
        "nothing is learned from a crowd: is iscrowd meant? data.skip_empty leaves such images out",
    )  # fmt: skip


def repeated_objects(content: CocoContent) -> Iterable[Finding]:
    """Objects that stand twice in an image: same category, same box."""
    keys = Counter(
        (a["image_id"], a["category_id"], *a["bbox"], bool(a.get("iscrowd", 0)))
        for a in content.annotations
    )
    yield from gather(
        "warning", "duplicate-object", content.path,
        [f"image {key[0]}: {list(key[2:6])}" for key, count in keys.items() if count > 1],
        "objects that stand more than once", "remove the copies: each counts as a miss",
    )  # fmt: skip


def unused_categories(content: CocoContent) -> Iterable[Finding]:
    """Categories without any object that is no crowd."""
    used = {a["category_id"] for a in content.annotations if not a.get("iscrowd", 0)}
    unused = [c for c in content.categories if c["id"] not in used]
    if content.annotations:
        yield from gather(
            "note", "unused-category", content.path,
            [f"{c['name']} ({c['id']})" for c in unused], "categories without any object",
            "they cannot be learned from this file, and their AP is undefined",
        )  # fmt: skip


def empty_images(content: CocoContent) -> Iterable[Finding]:
    """Images without annotations."""
    used = {a["image_id"] for a in content.annotations}
    if content.annotations:
        yield from gather(
            "note", "empty-image", content.path,
            [image["id"] for image in content.images if image["id"] not in used],
            "images without annotations",
            "fine if they really hold no object; data.skip_empty leaves them out of training",
        )  # fmt: skip


CHECKS: tuple[Callable[[CocoContent], Iterable[Finding]], ...] = (
    nothing_there, image_ids, file_names, category_ids, category_names, annotation_ids,
    image_references, category_references, degenerate_boxes, boxes_on_images, areas, crowds,
    repeated_objects, unused_categories, empty_images,
)  # fmt: skip
