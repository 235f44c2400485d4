"""COCO annotation files, read once into compact, checked arrays."""

from __future__ import annotations

import difflib
import functools
import marshal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as run_lengths
from torch import Tensor

from detr2d.data.image_headers import MAX_PIXELS
from detr2d.data.json_files import are_numbers, is_integer, is_number, load_json

FARTHEST = 1e5  # pixels that a polygon may reach from the origin


@dataclass(frozen=True)
class CocoFile:
    """A COCO instance file: N images with A annotations, sorted by image as the file lists them.

    ``categories`` is (id, name) in the file's order. image_ids (N,); file_names (N,); sizes (N, 2)
    height, width; the annotations of image n are ``starts[n]:starts[n + 1]`` of ids (A,),
    category_ids (A,), boxes (A, 4) x, y, width, height in pixels, areas (A,) and crowd (A,) bool;
    ``segments`` holds their segmentation as the file gives it, packed by ``marshal``, one after the
    other from ``segment_starts``: workers share these bytes instead of copying a million lists.
    """

    path: Path
    categories: tuple[tuple[int, str], ...]
    image_ids: NDArray[np.int64]
    file_names: tuple[str, ...]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    segments: bytes
    segment_starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image_ids)

    @functools.cached_property
    def rows_by_token(self) -> dict[str, int]:
        """Row of each image by its id as text."""
        return {str(image_id): row for row, image_id in enumerate(self.image_ids.tolist())}

    def annotations(self, row: int) -> range:
        """Positions of an image's annotations in the columns."""
        return range(int(self.starts[row]), int(self.starts[row + 1]))

    def run_length(self, row: int, position: int) -> dict[str, Any]:
        """The mask of one annotation of image ``row`` as compressed run lengths (counts: bytes).

        Raises ValueError naming file and annotation if it has no mask or one that cannot be read.
        """
        start, stop = self.segment_starts[position : position + 2]
        segmentation = marshal.loads(self.segments[start:stop])
        height, width = self.sizes[row].tolist()
        try:
            return read_segmentation(segmentation, height, width)
        except ValueError as error:
            raise ValueError(f"{self.path}: annotation {self.ids[position]}: {error}") from error

    def masks(self, row: int, positions: Iterable[int]) -> Tensor:
        """Masks (T, H, W) bool of annotations of image ``row``, at the file's image size."""
        height, width = self.sizes[row].tolist()
        runs = [self.run_length(row, position) for position in positions]
        if not runs:
            return torch.zeros(0, height, width, dtype=torch.bool)
        return torch.from_numpy(run_lengths.decode(runs)).permute(2, 0, 1).contiguous().bool()


def read_coco(path: Path) -> CocoFile:
    """Read and check a COCO instance file; the last few are kept in memory until they change.

    Raises FileNotFoundError or ValueError naming the file and the annotation or image at fault.
    """
    return _read_coco(path.resolve(), modified(path))


def modified(path: Path) -> int:
    """When a file was last changed. Raises FileNotFoundError saying that annotations miss."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError as error:
        raise FileNotFoundError(f"annotation file {path} is missing") from error


@functools.lru_cache(maxsize=4)
def _read_coco(path: Path, modified: int) -> CocoFile:
    content = read_json(path, ("images", "annotations", "categories"))
    categories = read_categories(path, content["categories"])
    known = {category_id for category_id, _ in categories}
    rows, sizes = read_images(path, content["images"])
    groups: list[list[Mapping[str, Any]]] = [[] for _ in rows]
    for annotation in content["annotations"]:
        if not isinstance(annotation, dict):
            raise ValueError(f"{path}: an annotation must be an object, got {str(annotation)[:60]}")
        name = f"{path}: annotation {annotation.get('id', annotation)}"
        _check_annotation(name, annotation, rows, known)
        groups[rows[annotation["image_id"]]].append(annotation)
    ordered = [annotation for group in groups for annotation in group]
    packed = [marshal.dumps(a.get("segmentation")) for a in ordered]
    boxes = np.array([a["bbox"] for a in ordered], dtype=np.float64).reshape(-1, 4)
    return CocoFile(
        path=path,
        categories=categories,
        image_ids=np.array(list(rows), dtype=np.int64),
        file_names=tuple(image["file_name"] for image in content["images"]),
        sizes=sizes,
        starts=_offsets(len(group) for group in groups),
        ids=np.array([a["id"] for a in ordered], dtype=np.int64),
        category_ids=np.array([a["category_id"] for a in ordered], dtype=np.int64),
        boxes=boxes,
        areas=np.array(
            [
                a.get("area", box[2] * box[3])
                for a, box in zip(ordered, boxes.tolist(), strict=True)
            ],
            dtype=np.float64,
        ),
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in ordered], dtype=np.bool_),
        segments=b"".join(packed),
        segment_starts=_offsets(len(segment) for segment in packed),
    )


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object with lists under ``keys``. Raises ValueError naming the file otherwise."""
    content = load_json(path)
    for key in keys:
        found = content.get(key) if isinstance(content, dict) else None
        if not isinstance(found, list):
            raise ValueError(f"{path} is no COCO file: expected a list under {key}")
    return content


def read_categories(path: Path, rows: list[Any]) -> tuple[tuple[int, str], ...]:
    """(id, name) of each category; a name that several share gets its id behind it.

    Raises ValueError if there is none, or an id is no integer or not unique.
    """
    ids = [_integer(f"{path}: category", row, "id") for row in rows]
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"{path}: category ids must be unique and at least one, got {ids[:20]}")
    names = [str(row.get("name", number)) for row, number in zip(rows, ids, strict=True)]
    return tuple(
        (number, f"{name} ({number})" if names.count(name) > 1 else name)
        for number, name in zip(ids, names, strict=True)
    )


def read_images(path: Path, images: list[Any]) -> tuple[dict[int, int], NDArray[np.int64]]:
    """Row of each image by id, and the sizes (N, 2) height, width of all.

    Raises ValueError if an id, size or file name is missing or wrong, or an id not unique.
    """
    rows: dict[int, int] = {}
    sizes = np.zeros((len(images), 2), dtype=np.int64)
    for row, image in enumerate(images):
        number = _integer(f"{path}: image", image, "id")
        if number in rows:
            raise ValueError(f"{path}: image id {number} appears twice")
        rows[number] = row
        sizes[row] = [
            _integer(f"{path}: image {number}", image, side) for side in ("height", "width")
        ]
        if sizes[row].min() < 1 or not isinstance(image.get("file_name"), str):
            raise ValueError(
                f"{path}: image {number} needs a file_name and a positive height and width, "
                f"got {image}"
            )
        if int(sizes[row, 0]) * int(sizes[row, 1]) > MAX_PIXELS:
            raise ValueError(
                f"{path}: image {number} has {sizes[row, 0]} x {sizes[row, 1]} pixels, "
                f"expected at most {MAX_PIXELS} in all"
            )
    return rows, sizes


def _integer(name: str, row: Any, key: str) -> int:
    value = row.get(key) if isinstance(row, dict) else None
    if not is_integer(value):
        raise ValueError(f"{name}: {key} must be an integer, got {str(value)[:60]!r}")
    return value


def _check_annotation(
    name: str, annotation: Mapping[str, Any], rows: Mapping[int, int], known: set[int]
) -> None:
    """Raise ValueError if an annotation's ids or box are missing or wrong."""
    _integer(name, annotation, "id")
    if _integer(name, annotation, "image_id") not in rows:
        raise ValueError(f"{name}: image_id {annotation.get('image_id')} is not among the images")
    if _integer(name, annotation, "category_id") not in known:
        raise ValueError(
            f"{name}: category_id {annotation.get('category_id')} is not among the categories"
        )
    if not is_number(annotation.get("area", 0)):
        raise ValueError(f"{name}: area must be a number, got {annotation['area']!r}")
    box = annotation.get("bbox")
    if not _is_box(box):
        raise ValueError(
            f"{name}: bbox must be x, y, width, height: finite, sizes not negative; got {box}"
        )


def _is_box(box: Any) -> bool:
    """Whether this is four finite numbers, the last two not negative."""
    return are_numbers(box, 4) and min(box[2:]) >= 0


def _offsets(lengths: Iterable[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)


def read_segmentation(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths of a COCO segmentation: polygons, or run lengths of either kind.

    Raises ValueError saying what was expected if it is neither, or not of an image of this size.
    """
    try:
        return _run_length(segmentation, height, width)
    except (
        ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError
    ) as error:  # fmt: skip
        raise ValueError(
            f"segmentation must be polygons or run lengths of {height} x {width} pixels, "
            f"got {str(segmentation)[:60]} ({error})"
        ) from error


def _run_length(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    if isinstance(segmentation, list):
        if not segmentation or any(
            len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation
        ):
            raise ValueError("a polygon needs at least three points")
        # pycocotools walks along every edge in C and believes what it is given.
        if not all(abs(float(value)) < FARTHEST for polygon in segmentation for value in polygon):
            raise ValueError("a polygon reaches too far from its image")
        return run_lengths.merge(run_lengths.frPyObjects(segmentation, height, width))
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"its size is {segmentation['size']}")
    counts = segmentation["counts"]
    listed = counts if isinstance(counts, list) else _read_counts(counts.encode("ascii"))
    if not all(isinstance(count, int) and count >= 0 for count in listed):
        raise ValueError("its counts must be integers that are not negative")
    if sum(listed) != height * width:
        raise ValueError(f"its counts add up to {sum(listed)}")
    if isinstance(counts, list):
        return run_lengths.frPyObjects(segmentation, height, width)
    return {"size": [height, width], "counts": counts.encode("ascii")}


def _read_counts(text: bytes) -> list[int]:
    """The counts of compressed run lengths, as pycocotools writes them.

    Five bits a character from 48 on, the sixth says that more follow; from the third count on, the
    difference to the count before the last is written.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its counts are no compressed run lengths")
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts


@dataclass(frozen=True)
class LabelMap:
    """Which category id each of the K labels stands for in one file; None where it has none."""

    category_ids: tuple[int | None, ...]

    @functools.cached_property
    def labels(self) -> dict[int, int]:
        """Label of each category id."""
        return {c: label for label, c in enumerate(self.category_ids) if c is not None}


def map_labels(
    path: Path, categories: Sequence[tuple[int, str]], used: set[int], classes: Sequence[str]
) -> LabelMap:
    """The labels of a file's categories, found by name among ``classes``.

    Raises ValueError if a category that annotations use is not among the classes, with the nearest
    name, or if none of the classes is in the file.
    """
    ids = {name: number for number, name in categories}
    for number, name in categories:
        if number in used and name not in classes:
            near = difflib.get_close_matches(name, classes, n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise ValueError(
                f"{path}: category {number} ({name}) is none of the {len(classes)} classes" + hint
            )
    if not ids.keys() & set(classes):
        raise ValueError(
            f"{path} has none of the classes {', '.join(classes[:5])}, ...; "
            f"it has {', '.join(list(ids)[:5])}, ..."
        )
    return LabelMap(tuple(ids.get(name) for name in classes))
