"""Detections read back from official COCO result files, to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pycocotools import mask as run_lengths
from torch import Tensor
from torchvision.ops import box_convert

from detr2d.data.coco_files import LabelMap, read_segmentation
from detr2d.data.json_files import are_numbers, is_integer, is_number, load_json
from detr2d.data.panoptic_files import read_segment_map
from detr2d.data.paths import below
from detr2d.structures import Detections, ImageBatch, Segments

Finder = Callable[[ImageBatch, float], list[Detections]]
"""Gives the detections of at least a score in each image of a batch, best first."""


def read_results(path: Path, label_map: LabelMap) -> Finder:
    """What an official result file says about the images of a data set.

    The file is a list of boxes or masks (results_bbox.json, results_segm.json), or a panoptic one
    whose maps lie in the folder of its name beside it (panoptic.json, panoptic/). An image that is
    not in it has no detections. Raises ValueError for a file of neither form.
    """
    content = load_json(path)
    if isinstance(content, list):
        return _object_finder(content, path, label_map)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return _segment_finder(content["annotations"], path, label_map)
    raise ValueError(f'{path}: expected COCO results, a list or {{"annotations": [...]}}')


def _object_finder(results: list[Any], path: Path, label_map: LabelMap) -> Finder:
    by_image: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        _check_result(path, result)
        by_image.setdefault(str(result["image_id"]), []).append(result)

    def find(batch: ImageBatch, score: float) -> list[Detections]:
        return [
            _objects(
                [r for r in by_image.get(token, []) if r["score"] >= score], size, path, label_map
            )
            for token, size in zip(batch.tokens, batch.original_sizes, strict=True)
        ]

    return find


def _check_result(path: Path, result: Any) -> None:
    """Raise ValueError if a detection lacks something or has the wrong kind of it."""
    if not isinstance(result, dict):
        raise ValueError(f"{path}: a result must be an object, got {str(result)[:60]}")
    missing = {"image_id", "category_id", "score"} - result.keys()
    if missing or not {"bbox", "segmentation"} & result.keys():
        raise ValueError(f"{path}: a result lacks {sorted(missing) or 'bbox or segmentation'}")
    numbers = is_integer(result["category_id"]) and is_number(result["score"])
    if not numbers or not ("bbox" not in result or are_numbers(result["bbox"], 4)):
        raise ValueError(
            f"{path}: category_id must be an integer, score a number and bbox four, "
            f"got {str(result)[:200]}"
        )


def _objects(
    results: list[dict[str, Any]], size: Tensor, path: Path, label_map: LabelMap
) -> Detections:
    """Detections of one image of ``size`` (height, width) in pixels."""
    results = sorted(results, key=lambda result: -result["score"])
    masks = None
    if results and all("segmentation" in result for result in results):
        height, width = (int(side) for side in size)
        try:
            runs = [read_segmentation(r["segmentation"], height, width) for r in results]
        except ValueError as error:
            raise ValueError(f"{path}: image {results[0]['image_id']}: {error}") from error
        masks = torch.from_numpy(run_lengths.decode(runs)).permute(2, 0, 1).bool()
        boxes = torch.from_numpy(run_lengths.toBbox(runs)).float()
    else:
        lacking = [result for result in results if "bbox" not in result]
        if lacking:
            raise ValueError(f"{path}: image {lacking[0]['image_id']}: a result lacks bbox")
        boxes = torch.tensor([result["bbox"] for result in results], dtype=torch.float32)
        boxes = boxes.view(-1, 4)
    return Detections(
        scores=torch.tensor([float(result["score"]) for result in results]),
        labels=torch.tensor(
            [_label(result["category_id"], path, label_map) for result in results],
            dtype=torch.int64,
        ),
        boxes=box_convert(boxes, "xywh", "cxcywh") / size.flip(0).repeat(2),
        queries=torch.arange(len(results)),
        masks=masks,
    )


def _segment_finder(annotations: list[Any], path: Path, label_map: LabelMap) -> Finder:
    for annotation in annotations:
        if not _is_segmentation(annotation):
            raise ValueError(
                f"{path}: an annotation needs image_id, file_name and segments_info with integer "
                f"id and category_id, got {str(annotation)[:200]}"
            )
    by_image = {str(annotation["image_id"]): annotation for annotation in annotations}

    def find(batch: ImageBatch, score: float) -> list[Detections]:
        return [
            _segments(by_image.get(token), token, size, path, label_map)
            for token, size in zip(batch.tokens, batch.original_sizes.tolist(), strict=True)
        ]

    return find


def _is_segmentation(annotation: Any) -> bool:
    if not isinstance(annotation, dict) or "image_id" not in annotation:
        return False
    segments = annotation.get("segments_info")
    return isinstance(segments, list) and all(
        isinstance(s, dict) and is_integer(s.get("id")) and is_integer(s.get("category_id"))
        for s in segments
    )


def _segments(
    annotation: dict[str, Any] | None,
    token: str,
    size: list[float],
    path: Path,
    label_map: LabelMap,
) -> Detections:
    """The panoptic segmentation of one image of ``size`` (height, width), without objects."""
    id_map = torch.zeros([int(side) for side in size], dtype=torch.int64)
    labels: list[int] = []
    if annotation is not None:
        where = f"{path}: image {token}"
        ids = read_segment_map(
            below(path.with_suffix(""), annotation.get("file_name"), where), where
        )
        for number, segment in enumerate(annotation["segments_info"], start=1):
            id_map[ids == segment["id"]] = number
            labels.append(_label(segment["category_id"], path, label_map))
    segments = Segments(id_map, torch.tensor(labels, dtype=torch.int64), torch.ones(len(labels)))
    nothing = torch.zeros(0, dtype=torch.int64)
    return Detections(torch.zeros(0), nothing, torch.zeros(0, 4), nothing, segments=segments)


def _label(category_id: int, path: Path, label_map: LabelMap) -> int:
    if category_id not in label_map.labels:
        raise ValueError(f"{path}: category {category_id} is not in the annotation file")
    return label_map.labels[category_id]
