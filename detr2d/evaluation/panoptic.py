"""Panoptic quality: segmentations -> COCO PNG and JSON -> the official figures, by hotcoco."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detr2d.config import Report
from detr2d.data.coco_files import LabelMap
from detr2d.data.panoptic_files import PanopticFile, encode_segment_map
from detr2d.evaluation.coco import format_figure, in_columns, write_json
from detr2d.structures import Detections, ImageBatch, Segments

RESULTS_FILE = "panoptic.json"
MAPS_FOLDER = "panoptic"
FIGURES = ("pq", "sq", "rq")


class PanopticEvaluator:
    """Writes panoptic segmentations in the official format and judges them.

    Files in ``output_dir``: panoptic.json, panoptic/*.png named like the annotated maps, and
    metrics.json.
    """

    def __init__(
        self, file: PanopticFile, *, maps: Path, label_map: LabelMap, output_dir: Path
    ) -> None:
        self.file = file
        self.maps = maps
        self.label_map = label_map
        self.output_dir = output_dir

    def format(self, batch: ImageBatch, detections: list[Detections]) -> dict[str, dict[str, Any]]:
        """The segment list and the encoded PNG of each image, by image id.

        Segments whose label stands for no category of the file become void. Raises ValueError for
        detections without a segmentation at the original image size.
        """
        formatted = {}
        sizes = batch.original_sizes.tolist()
        for token, size, found in zip(batch.tokens, sizes, detections, strict=True):
            expected = [int(side) for side in size]
            if found.segments is None or list(found.segments.id_map.shape) != expected:
                came = None if found.segments is None else tuple(found.segments.id_map.shape)
                raise ValueError(f"image {token}: expected segments of {expected}, got {came}")
            formatted[token] = segment_results(found.segments, self.label_map)
        return formatted

    def summarize(self, results: dict[str, Any]) -> Report:
        """Write the result files and judge them on exactly the images that ``results`` names.

        Raises ValueError if there is no image or one that is not in the annotation file.
        """
        unknown = [token for token in results if token not in self.file.rows_by_token]
        if unknown or not results:
            raise ValueError(
                f"results name {len(results)} images, {len(unknown)} of them not in "
                f"{self.file.path}: {', '.join(unknown[:3])}"
            )
        rows = [self.file.rows_by_token[token] for token in results]
        folder = self.output_dir / MAPS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        annotations = []
        for row, result in zip(rows, results.values(), strict=True):
            name = Path(self.file.map_names[row]).with_suffix(".png").name
            (folder / name).write_bytes(result["png"])
            annotations.append(
                {
                    "image_id": int(self.file.image_ids[row]),
                    "file_name": name,
                    "segments_info": result["segments_info"],
                }
            )
        write_json(self.output_dir / RESULTS_FILE, {"annotations": annotations})
        quality = panoptic_quality(
            ground_truth(self.file, rows),
            {"annotations": annotations},
            truth_maps=self.maps,
            result_maps=folder,
        )
        report = make_report(quality, self.file, len(rows))
        write_json(self.output_dir / "metrics.json", report.metrics)
        return report


def segment_results(segments: Segments, label_map: LabelMap) -> dict[str, Any]:
    """One image's ``segments_info`` and ``png``; a segment needs a pixel and a category."""
    areas = torch.bincount(segments.id_map.flatten(), minlength=len(segments) + 1).tolist()
    ids = torch.zeros(len(segments) + 1, dtype=torch.int64)
    listed = []
    for number, label in enumerate(segments.labels.tolist(), start=1):
        category_id = label_map.category_ids[label]
        if areas[number] and category_id is not None:
            ids[number] = number
            listed.append({"id": number, "category_id": category_id, "area": areas[number]})
    return {"segments_info": listed, "png": encode_segment_map(ids[segments.id_map])}


def ground_truth(file: PanopticFile, rows: Sequence[int]) -> dict[str, Any]:
    """The annotations of some images as a COCO panoptic dictionary."""
    columns = [file.ids.tolist(), file.category_ids.tolist(), file.areas.tolist()]
    annotations = [
        {
            "image_id": int(file.image_ids[row]),
            "file_name": file.map_names[row],
            "segments_info": [
                {"id": number, "category_id": category, "area": area, "iscrowd": int(crowd)}
                for number, category, area, crowd in zip(
                    *(column[file.segments(row)] for column in columns),
                    file.crowd[file.segments(row)],
                    strict=True,
                )
            ],
        }
        for row in rows
    ]
    images = [
        {
            "id": int(file.image_ids[row]),
            "file_name": file.file_names[row],
            "height": int(file.sizes[row, 0]),
            "width": int(file.sizes[row, 1]),
        }
        for row in rows
    ]
    categories = [
        {"id": number, "name": name, "isthing": int(number in file.things)}
        for number, name in file.categories
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def panoptic_quality(
    truth: dict[str, Any], results: dict[str, Any], *, truth_maps: Path, result_maps: Path
) -> dict[str, Any]:
    """Panoptic quality by the official protocol: groups All, Things, Stuff, and per_class."""
    from hotcoco.panoptic import PanopticEval

    judge = PanopticEval(truth, results, gt_folder=truth_maps, pred_folder=result_maps)
    with contextlib.redirect_stdout(io.StringIO()):
        judge.run()
    return judge.results()


def make_report(quality: dict[str, Any], file: PanopticFile, num_images: int) -> Report:
    """PQ, SQ and RQ of all classes, things and stuff, and the PQ of each class that occurs."""
    names = dict(file.categories)
    groups = {group: quality[group] for group in ("All", "Things", "Stuff")}
    per_class = {
        names[number]: figures["pq"]
        for number, figures in quality["per_class"].items()
        if figures["tp"] + figures["fp"] + figures["fn"]
    }
    metrics: dict[str, float] = {}
    lines = [f"COCO panoptic, {num_images} images of {file.path.name}, hotcoco"]
    for group, figures in groups.items():
        suffix = "" if group == "All" else f"/{group.lower()}"
        metrics |= {f"{name.upper()}{suffix}": float(figures[name]) for name in FIGURES}
        row = "  ".join(f"{name.upper()} {format_figure(figures[name])}" for name in FIGURES)
        lines.append(f"{group:<7}{row}  {figures['n']:>4} classes")
    metrics |= {f"PQ/{name}": float(value) for name, value in per_class.items()}
    return Report(metrics=metrics, table="\n".join(lines + in_columns(per_class)))
