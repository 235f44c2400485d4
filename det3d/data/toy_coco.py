"""COCO detection and panoptic files for the images of a toy world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from det3d.data.toy_paint import FIRST_ACTOR_ID
from det3d.data.toy_records import FrameRecord, ImageRecord, MaskRecord
from det3d.data.toy_town import STUFF
from det3d.data.toy_traffic import DETECTION_CLASSES

Image = NDArray[np.uint8]

MIN_AREA = 10  # pixels; smaller pieces are void
FIRST_STUFF = len(DETECTION_CLASSES) + 1
FIRST_THING_SEGMENT = 100  # panoptic ids of things; stuff uses its category


def describe_image(filename: str, ids: Image, names: list[str]) -> ImageRecord:
    """COCO truth of one image from its id buffer (H, W); names: class of actor id 16, 17, ..."""
    columns = np.ascontiguousarray(ids.T)
    areas = np.bincount(ids.ravel(), minlength=256)
    masks = []
    for k in np.flatnonzero(areas[FIRST_ACTOR_ID:] >= MIN_AREA):
        runs = run_lengths.encode((columns == FIRST_ACTOR_ID + k).view(np.uint8).T)
        x, y, width, height = run_lengths.toBbox(runs).tolist()
        masks.append(
            MaskRecord(
                segment=FIRST_THING_SEGMENT + int(k),
                category=DETECTION_CLASSES.index(names[k]) + 1,
                box=(x, y, width, height),
                area=int(areas[FIRST_ACTOR_ID + k]),
                counts=runs["counts"].decode(),
            )
        )
    stuff = []
    for label in np.flatnonzero(areas[: len(STUFF) + 1] >= MIN_AREA):
        x, y, width, height = cv2.boundingRect((ids == label).view(np.uint8))
        stuff.append((FIRST_STUFF + int(label) - 1, int(areas[label]), (x, y, width, height)))
    return ImageRecord(filename, panoptic_name(filename), tuple(masks), tuple(stuff))


def panoptic_name(filename: str) -> str:
    """Panoptic PNG of an image, relative to the ``coco`` folder."""
    return f"panoptic/{Path(filename).stem}.png"


def write_panoptic(path: Path, ids: Image, record: ImageRecord) -> None:
    """Write the PNG whose RGB value R + 256 G + 65536 B is the segment id; 0 is void."""
    segments = np.zeros(256, np.uint8)
    for category, _, _ in record.stuff:
        segments[category - FIRST_STUFF + 1] = category
    green = segments.copy()
    green[:] = 0
    for mask in record.masks:
        local = mask.segment - FIRST_THING_SEGMENT + FIRST_ACTOR_ID
        segments[local], green[local] = mask.segment % 256, mask.segment // 256
    table = np.zeros((256, 1, 3), np.uint8)
    table[:, 0, 2], table[:, 0, 1] = segments, green
    picture = cv2.LUT(cv2.merge([ids, ids, ids]), table)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


def coco_files(split: str, frames: list[FrameRecord], image_size: tuple[int, int]) -> dict[str, Any]:
    """Content of the instance and panoptic files of one split, by file name."""
    height, width = image_size
    images = [image for frame in frames for image in frame.images]
    listed = [
        {"id": k, "file_name": image.filename, "height": height, "width": width}
        for k, image in enumerate(images, start=1)
    ]
    things = [{"id": k, "name": n, "isthing": 1} for k, n in enumerate(DETECTION_CLASSES, start=1)]
    stuff = [{"id": k, "name": n, "isthing": 0} for k, n in enumerate(STUFF, start=FIRST_STUFF)]
    info = {"description": "toy world", "version": "1.0"}
    return {
        f"instances_{split}.json": {
            "info": info, "licenses": [], "images": listed, "categories": [
                {"id": c["id"], "name": c["name"], "supercategory": "thing"} for c in things
            ], "annotations": _instances(images, image_size),
        },
        f"panoptic_{split}.json": {
            "info": info, "licenses": [], "images": listed, "categories": [
                {**c, "supercategory": "thing" if c["isthing"] else "stuff"} for c in things + stuff
            ], "annotations": [_panoptic(k, image) for k, image in enumerate(images, start=1)],
        },
    }  # fmt: skip


def _instances(images: list[ImageRecord], image_size: tuple[int, int]) -> list[dict[str, Any]]:
    pairs = [(k, mask) for k, image in enumerate(images, start=1) for mask in image.masks]
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": mask.category,
            "bbox": list(mask.box),
            "area": mask.area,
            "iscrowd": 0,
            "segmentation": {"size": list(image_size), "counts": mask.counts},
        }
        for number, (image, mask) in enumerate(pairs, start=1)
    ]


def _panoptic(number: int, image: ImageRecord) -> dict[str, Any]:
    things = [
        {"id": m.segment, "category_id": m.category, "area": m.area,
         "bbox": [int(v) for v in m.box], "iscrowd": 0}
        for m in image.masks
    ]  # fmt: skip
    stuff = [
        {"id": category, "category_id": category, "area": area, "bbox": list(box), "iscrowd": 0}
        for category, area, box in image.stuff
    ]
    return {
        "image_id": number,
        "file_name": Path(image.panoptic).name,
        "segments_info": stuff + things,
    }
