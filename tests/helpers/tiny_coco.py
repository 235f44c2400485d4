"""A COCO data set of three small images, with instances, a crowd, panoptic maps and odd ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

SIZES = {7: (40, 60), 3: (60, 40), 12: (32, 32)}  # image id: height, width
CATEGORIES = {1000: "kite", 0: "dog", 45: "cat"}
STUFF = {200: "sky", 183: "grass"}


def polygon(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def annotation(
    number: int, image: int, category: int, box: list[float], **more: Any
) -> dict[str, Any]:
    found = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
        "segmentation": polygon(*box),
    }
    return {**found, **more}


def crowd_runs(size: tuple[int, int], box: tuple[int, int, int, int]) -> dict[str, Any]:
    """Uncompressed run lengths, as COCO writes crowds."""
    x, y, width, height = box
    mask = np.zeros(size, np.uint8)
    mask[y : y + height, x : x + width] = 1
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return {"size": list(size), "counts": counts}


def compressed_runs(size: tuple[int, int], box: tuple[int, int, int, int]) -> dict[str, Any]:
    runs = run_lengths.frPyObjects(crowd_runs(size, box), *size)
    return {"size": list(size), "counts": runs["counts"].decode()}


def instances() -> dict[str, Any]:
    """Image 7: dog, cat and a crowd of dogs; image 3: nothing; image 12: a kite and a dog."""
    return {
        "images": [
            {"id": number, "file_name": f"{number:06d}.png", "height": h, "width": w}
            for number, (h, w) in SIZES.items()
        ],
        "annotations": [
            annotation(0, 7, 0, [10, 5, 20, 30]),
            annotation(9, 7, 45, [35, 8, 12, 16]),
            annotation(
                4, 7, 0, [0, 0, 60, 4], iscrowd=1, segmentation=crowd_runs(SIZES[7], (0, 0, 60, 4))
            ),
            annotation(
                5, 12, 1000, [2, 3, 9, 8], segmentation=compressed_runs(SIZES[12], (2, 3, 9, 8))
            ),
            annotation(6, 12, 0, [20, 20, 12, 12]),
        ],
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
    }


def segment_boxes() -> dict[int, list[tuple[int, int, tuple[int, int, int, int], int]]]:
    """Segments of each image: id, category, box, crowd; later ones lie on top."""
    return {
        7: [
            (70000, 200, (0, 0, 60, 20), 0),
            (300, 183, (0, 20, 60, 20), 0),
            (5, 0, (10, 5, 20, 30), 0),
            (6, 45, (35, 8, 12, 16), 1),
        ],
        3: [(1, 200, (0, 0, 40, 60), 0)],
        12: [(2, 1000, (2, 3, 9, 8), 0), (3, 0, (20, 20, 12, 12), 0)],
    }


def draw_ids(image: int) -> np.ndarray:
    ids = np.zeros(SIZES[image], np.int64)
    for number, _, (x, y, width, height), _ in segment_boxes()[image]:
        ids[y : y + height, x : x + width] = number
    return ids


def panoptic() -> dict[str, Any]:
    return {
        "images": instances()["images"],
        "annotations": [
            {
                "image_id": image,
                "file_name": f"{image:06d}.png",
                "segments_info": [
                    {
                        "id": number,
                        "category_id": category,
                        "area": int((draw_ids(image) == number).sum()),
                        "iscrowd": crowd,
                    }
                    for number, category, _, crowd in segments
                ],
            }
            for image, segments in segment_boxes().items()
        ],
        "categories": [
            {"id": number, "name": name, "isthing": int(number in CATEGORIES)}
            for number, name in (CATEGORIES | STUFF).items()
        ],
    }


def write_tiny_coco(root: Path) -> Path:
    """Write images/, maps/, instances.json and panoptic.json below ``root``."""
    for folder in ("images", "maps"):
        (root / folder).mkdir(parents=True)
    noise = np.random.default_rng(0)
    for image, size in SIZES.items():
        pixels = noise.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/{image:06d}.png")
        ids = draw_ids(image)
        channels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
        Image.fromarray(channels.astype(np.uint8)).save(root / f"maps/{image:06d}.png")
    (root / "instances.json").write_text(json.dumps(instances()))
    (root / "panoptic.json").write_text(json.dumps(panoptic()))
    return root
