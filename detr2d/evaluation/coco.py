"""COCO evaluation of boxes and masks: detections -> official result files -> official figures.

The figures come from hotcoco, or from pycocotools, whose numbers hotcoco reproduces; both are given
the same ground truth. Annotations are renumbered from 1 for them, because the official matching
takes an annotation with id 0 for none at all.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as run_lengths
from torch import Tensor
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as move

from detr2d.config import Report
from detr2d.data.coco_files import CocoFile, LabelMap
from detr2d.structures import Detections, ImageBatch

Kind = Literal["bbox", "segm"]
Library = Literal["hotcoco", "pycocotools"]
Result = dict[str, Any]

KIND_NAMES = {"bbox": "boxes", "segm": "masks"}
FIGURES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """The twelve official figures by the names in ``FIGURES``, and the AP of each category id.

    A figure is -1 where it is not defined: no object of that size, no object of that category.
    """

    summary: dict[str, float]
    per_category: dict[int, float]


class CocoEvaluator:
    """Writes detections as official result files and judges them.

    Files in ``output_dir``: results_bbox.json and results_segm.json in the official format with the
    file's own ids, and metrics.json.
    """

    def __init__(
        self,
        file: CocoFile,
        *,
        label_map: LabelMap,
        output_dir: Path,
        kinds: Sequence[Kind] = ("bbox",),
        library: Library = "hotcoco",
    ) -> None:
        self.file = file
        self.label_map = label_map
        self.output_dir = output_dir
        self.kinds = tuple(kinds)
        self.library: Library = library

    def format(
        self, batch: ImageBatch, detections: list[Detections]
    ) -> dict[str, dict[Kind, list[Result]]]:
        """Official results of each image by kind (bbox, segm), by image id.

        Boxes of the detections are normalised centre x, centre y, width, height; labels that no
        category of the file stands for are dropped. Raises ValueError for a detection that is not
        finite, and for one without a mask where masks are evaluated.
        """
        formatted = {}
        sizes = batch.original_sizes.cpu()
        for token, size, found in zip(batch.tokens, sizes, detections, strict=True):
            ids = self.label_map.category_ids
            known = torch.tensor([ids[label] is not None for label in found.labels.tolist()])
            kept = found.select(known.bool())
            image_id = int(self.file.image_ids[self._row(token)])
            heads = [
                {"image_id": image_id, "category_id": ids[label], "score": score}
                for label, score in zip(kept.labels.tolist(), kept.scores.tolist(), strict=True)
            ]
            formatted[token] = {
                kind: box_results(heads, kept, size, token)
                if kind == "bbox"
                else mask_results(heads, kept, size, token)
                for kind in self.kinds
            }
        return formatted

    def summarize(self, results: dict[str, Any]) -> Report:
        """Write the result files and judge them on exactly the images that ``results`` names.

        Raises ValueError if there is no image or one that is not in the annotation file.
        """
        if not results:
            raise ValueError(f"no results to judge on {self.file.path}")
        rows = [self._row(token) for token in results]
        self.output_dir.mkdir(parents=True, exist_ok=True)
        metrics: dict[str, float] = {}
        tables = []
        for kind in self.kinds:
            listed = [result for image in results.values() for result in image[kind]]
            write_json(self.output_dir / f"results_{kind}.json", listed)
            truth = ground_truth(self.file, rows, with_masks=kind == "segm")
            figures = official_figures(truth, listed, kind, self.library)
            prefix = "" if kind == "bbox" else f"{kind}/"
            named = name_categories(self.file, figures.per_category)
            metrics |= {prefix + name: value for name, value in figures.summary.items()}
            metrics |= {f"{prefix}AP/{name}": value for name, value in named.items()}
            title = f"COCO {KIND_NAMES[kind]}, {len(rows)} images of {self.file.path.name}"
            tables.append(format_table(f"{title}, {self.library}", figures.summary, named))
        write_json(self.output_dir / "metrics.json", metrics)
        return Report(metrics=metrics, table="\n\n".join(tables))

    def _row(self, token: str) -> int:
        if token not in self.file.rows_by_token:
            raise ValueError(f"image {token} is not in {self.file.path}")
        return self.file.rows_by_token[token]


def box_results(heads: list[Result], found: Detections, size: Tensor, token: str) -> list[Result]:
    """``heads`` with the boxes x, y, width, height in pixels of an image of ``size`` (2,)."""
    scale = size.flip(0).repeat(2).double()
    boxes = box_convert(found.boxes.double(), "cxcywh", "xywh") * scale
    if not bool(boxes.isfinite().all() and found.scores.isfinite().all()):
        raise ValueError(f"image {token} has detections that are not finite")
    return [{**head, "bbox": box} for head, box in zip(heads, boxes.tolist(), strict=True)]


def mask_results(heads: list[Result], found: Detections, size: Tensor, token: str) -> list[Result]:
    """``heads`` with masks as compressed run lengths of an image of ``size`` (2,)."""
    expected = [int(side) for side in size]
    if found.masks is None or list(found.masks.shape[1:]) != expected:
        came = "no masks" if found.masks is None else f"masks of {tuple(found.masks.shape[1:])}"
        raise ValueError(f"image {token} of size {expected} has detections with {came}")
    return [
        {**head, "segmentation": runs}
        for head, runs in zip(heads, encode_masks(found.masks), strict=True)
    ]


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Masks (N, H, W) bool as COCO's compressed run lengths, ready for JSON."""
    if not len(masks):
        return []
    columns = np.asfortranarray(masks.permute(1, 2, 0).to(torch.uint8).numpy())
    return [
        {"size": list(runs["size"]), "counts": runs["counts"].decode()}
        for runs in run_lengths.encode(columns)
    ]


def ground_truth(file: CocoFile, rows: Sequence[int], *, with_masks: bool) -> dict[str, Any]:
    """The annotations of some images as a COCO dictionary, their ids counted from 1."""
    images = [
        {"id": int(file.image_ids[row]), "height": int(height), "width": int(width)}
        for row, (height, width) in zip(rows, file.sizes[list(rows)], strict=True)
    ]
    annotations: list[dict[str, Any]] = []
    for row in rows:
        for position in file.annotations(row):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": int(file.image_ids[row]),
                "category_id": int(file.category_ids[position]),
                "bbox": file.boxes[position].tolist(),
                "area": float(file.areas[position]),
                "iscrowd": int(file.crowd[position]),
            }
            if with_masks:
                runs = file.run_length(row, position)
                counts = runs["counts"].decode()
                annotation["segmentation"] = {"size": list(runs["size"]), "counts": counts}
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for number, name in file.categories]
    return {"images": images, "annotations": annotations, "categories": categories}


def official_figures(
    truth: dict[str, Any], results: list[Result], kind: Kind, library: Library = "hotcoco"
) -> Figures:
    """The official evaluation of results of one kind on all images of a COCO dictionary."""
    judge = _judge_hotcoco if library == "hotcoco" else _judge_pycocotools
    with contextlib.redirect_stdout(io.StringIO()):  # both print their progress
        stats, precision, category_ids = judge(truth, results, kind)
    summary = dict(zip(FIGURES, (float(value) for value in stats), strict=True))
    per_category = {}
    for index, category_id in enumerate(category_ids):
        values = precision[:, :, index, 0, -1]  # all thresholds, all sizes, most detections
        values = values[values > -1]
        per_category[category_id] = float(values.mean()) if values.size else -1.0
    return Figures(summary, per_category)


Judgement = tuple[Sequence[float], NDArray[np.float64], list[int]]


def _judge_hotcoco(truth: dict[str, Any], results: list[Result], kind: Kind) -> Judgement:
    from hotcoco import COCO, COCOeval

    annotated = COCO(truth)
    judge = COCOeval(annotated, annotated.load_res(results), kind)
    judge.params.img_ids = [image["id"] for image in truth["images"]]
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    precision = np.asarray((judge.eval or {})["precision"])
    return list(judge.stats), precision, list(judge.params.cat_ids)


def _judge_pycocotools(truth: dict[str, Any], results: list[Result], kind: Kind) -> Judgement:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotated, detected = COCO(), COCO()
    annotated.dataset = {**truth, "info": {}}
    annotated.createIndex()
    if results:  # it cannot load an empty list; it writes into the results
        detected = annotated.loadRes([dict(result) for result in results])
    else:
        detected.dataset = {**annotated.dataset, "annotations": []}
        detected.createIndex()
    judge = COCOeval(annotated, detected, kind)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats.tolist(), judge.eval["precision"], list(judge.params.catIds)


def name_categories(file: CocoFile, per_category: dict[int, float]) -> dict[str, float]:
    """AP by name of the categories that have objects in the images judged."""
    names = dict(file.categories)
    return {names[number]: value for number, value in per_category.items() if value > -1}


def ground_truth_detections(batch: ImageBatch) -> list[Detections]:
    """The targets of each image as detections with score 1, masks at the original size.

    Raises ValueError for a batch without targets.
    """
    if batch.targets is None:
        raise ValueError(f"images {', '.join(batch.tokens)} have no targets")
    found = []
    for targets, size in zip(batch.targets, batch.original_sizes.tolist(), strict=True):
        masks = targets.masks
        if masks is not None:
            masks = move.resize_mask(masks, [int(side) for side in size])
        scores, queries = torch.ones(len(targets)), torch.arange(len(targets))
        found.append(Detections(scores, targets.labels, targets.boxes, queries, masks))
    return found


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that ``path`` is complete or absent."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)


def format_table(title: str, summary: dict[str, float], per_class: dict[str, float]) -> str:
    """Figures as text: precision, recall, then the AP of each class in three columns."""
    names = list(summary)
    lines = [title]
    for row in (names[: len(names) // 2], names[len(names) // 2 :]):
        lines.append("  ".join(f"{name:>5} {format_figure(summary[name])}" for name in row))
    return "\n".join(lines + in_columns(per_class))


def in_columns(values: dict[str, float], columns: int = 3) -> list[str]:
    """Named figures side by side, read from top to bottom."""
    cells = [f"{name[:24]:<24} {format_figure(value)}" for name, value in values.items()]
    height = -(-len(cells) // columns)
    return ["   ".join(cells[row::height]) for row in range(height)]


def format_figure(value: float) -> str:
    """A figure with three decimals, a dash where it is not defined."""
    return f"{'-':>5}" if value < 0 else f"{value:5.3f}"
