"""COCO panoptic annotation files and the PNG segment maps that go with them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import encode_png

from detr2d.data.coco_files import modified, read_categories, read_images, read_json
from detr2d.data.image_files import read_image
from detr2d.data.json_files import is_integer

SEGMENT_FIELDS = ("id", "category_id", "area")


@dataclass(frozen=True)
class PanopticFile:
    """A COCO panoptic file: N images with S segments, sorted by image as the file lists them.

    ``categories`` is (id, name), ``things`` the ids of those that are countable. image_ids (N,);
    file_names (N,) of images; map_names (N,) of segment maps; sizes (N, 2) height, width. The
    segments of image n are ``starts[n]:starts[n + 1]`` of ids (S,), category_ids (S,), areas (S,)
    in pixels and crowd (S,) bool.
    """

    path: Path
    categories: tuple[tuple[int, str], ...]
    things: frozenset[int]
    image_ids: NDArray[np.int64]
    file_names: tuple[str, ...]
    map_names: tuple[str, ...]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    areas: NDArray[np.int64]
    crowd: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.image_ids)

    @functools.cached_property
    def rows_by_token(self) -> dict[str, int]:
        """Row of each image by its id as text."""
        return {str(image_id): row for row, image_id in enumerate(self.image_ids.tolist())}

    def segments(self, row: int) -> slice:
        """Positions of an image's segments in the columns."""
        return slice(int(self.starts[row]), int(self.starts[row + 1]))


def read_panoptic(path: Path) -> PanopticFile:
    """Read and check a COCO panoptic file; the last few are kept in memory until they change.

    Images without an annotation are left out. Raises FileNotFoundError or ValueError naming the
    file and the image or annotation at fault.
    """
    return _read_panoptic(path.resolve(), modified(path))


@functools.lru_cache(maxsize=4)
def _read_panoptic(path: Path, modified: int) -> PanopticFile:
    content = read_json(path, ("images", "annotations", "categories"))
    categories = read_categories(path, content["categories"])
    known = {number for number, _ in categories}
    rows, sizes = read_images(path, content["images"])
    by_image: dict[int, Mapping[str, Any]] = {}
    for annotation in content["annotations"]:
        _check_annotation(path, annotation, rows, known)
        by_image[annotation["image_id"]] = annotation
    kept = [image for image in rows if image in by_image]
    groups = [by_image[image]["segments_info"] for image in kept]
    columns = {
        name: np.array([s[name] for group in groups for s in group], dtype=np.int64)
        for name in SEGMENT_FIELDS
    }
    return PanopticFile(
        path=path,
        categories=categories,
        things=frozenset(c["id"] for c in content["categories"] if c.get("isthing", 1)),
        image_ids=np.array(kept, dtype=np.int64),
        file_names=tuple(content["images"][rows[image]]["file_name"] for image in kept),
        map_names=tuple(by_image[image]["file_name"] for image in kept),
        sizes=sizes[[rows[image] for image in kept]].reshape(-1, 2),
        starts=np.cumsum([0, *(len(group) for group in groups)], dtype=np.int64),
        ids=columns["id"],
        category_ids=columns["category_id"],
        areas=columns["area"],
        crowd=np.array([bool(s.get("iscrowd", 0)) for g in groups for s in g], dtype=np.bool_),
    )


def _check_annotation(
    path: Path, annotation: Any, rows: Mapping[int, int], known: set[int]
) -> None:
    """Raise ValueError if a panoptic annotation or one of its segments is missing something."""
    image = annotation.get("image_id") if isinstance(annotation, dict) else None
    if not is_integer(image) or image not in rows:
        raise ValueError(f"{path}: annotation of image {image}, which is not among the images")
    name = f"{path}: annotation of image {image}"
    if not isinstance(annotation.get("file_name"), str):
        raise ValueError(f"{name}: file_name of the segment map is missing")
    segments = annotation.get("segments_info")
    if not isinstance(segments, list):
        raise ValueError(f"{name}: segments_info is missing or no list")
    for segment in segments:
        if not _is_segment(segment):
            raise ValueError(f"{name}: a segment needs integer {SEGMENT_FIELDS}, got {segment}")
        if segment["category_id"] not in known:
            raise ValueError(
                f"{name}: segment {segment['id']}: category_id {segment['category_id']} "
                "is not among the categories"
            )


def _is_segment(segment: Any) -> bool:
    """Whether this is an object with an integer of at most 63 bits in each of the fields."""
    values = [segment.get(f) if isinstance(segment, dict) else None for f in SEGMENT_FIELDS]
    return all(map(is_integer, values))


def read_segment_map(path: Path, where: str) -> Tensor:
    """Segment ids (H, W) int64 of a panoptic PNG: R + 256 G + 65536 B, 0 for none."""
    red, green, blue = read_image(path, where).long()
    return red + 256 * green + 65536 * blue


def encode_segment_map(ids: Tensor) -> bytes:
    """The panoptic PNG of segment ids (H, W) below 2**24."""
    channels = torch.stack([ids % 256, ids // 256 % 256, ids // 65536])
    return encode_png(channels.to(torch.uint8)).numpy().tobytes()


def boxes_of_masks(masks: Tensor) -> Tensor:
    """Boxes (T, 4) x1, y1, x2, y2 that just hold the pixels of masks (T, H, W) bool.

    Pixel corners, so the box of a single pixel is one wide; zero for a mask without any pixel.
    """
    sides = []
    for along in (masks.any(dim=1), masks.any(dim=2)):  # columns, then rows
        length = along.shape[-1]
        first = along.int().argmax(dim=-1)
        last = length - along.flip(-1).int().argmax(dim=-1)
        sides.append(torch.stack([first, last], dim=-1) * along.any(dim=-1, keepdim=True))
    return torch.stack(sides, dim=-1).flatten(1).float()
