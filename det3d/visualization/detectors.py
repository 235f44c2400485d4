"""Where detections to draw come from: an official result file or a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from det3d.boxes import transform_boxes
from det3d.data.nuscenes import NuScenesDataset
from det3d.data.nuscenes_index import NuScenesIndex
from det3d.evaluation.nuscenes import read_result_boxes
from det3d.geometry import Region, invert_transform, transform_points
from det3d.visualization.contents import QueryTrails, query_trails
from detr2d.structures import Detections, Predictions

MOST_TRAILS = 20  # queries whose way is drawn; more hide each other
Findings = tuple[Detections, QueryTrails | None]
Detector = Callable[[int], Findings]
"""Detections, and the ways of their queries if known, of the sample in a row of the index."""


def submission_detector(
    index: NuScenesIndex, results: Mapping[str, list[dict[str, Any]]], path: Path, score: float
) -> Detector:
    """Looks detections of at least ``score`` up in the content of an official result file.

    It raises ValueError for a sample that the file lacks or whose boxes are not complete.
    """

    def detect(row: int) -> Findings:
        token = str(index.sample_tokens[row], "utf-8")
        if token not in results:
            raise ValueError(f"{path} has no sample {token!r} ({len(results)} samples)")
        try:
            found = read_result_boxes(index, token, results[token])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, sample {token}: no detection boxes ({error!r})") from error
        return found.select(found.scores >= score), None

    return detect


def model_detector(
    model: nn.Module,
    postprocess: Callable[[Predictions], list[Detections]],
    dataset: NuScenesDataset,
    drawn: NuScenesIndex,
    *,
    score: float,
    device: torch.device,
) -> Detector:
    """Runs a model on the samples of ``dataset``, which has them as the model expects them.

    What it finds is told in the ref frame of ``drawn``, an index of the same database. Trails are
    told for models with a ``region`` that their reference points live in.
    """
    model = model.to(device).eval()
    items = {int(row): item for item, row in enumerate(dataset.row_numbers)}

    def detect(row: int) -> Findings:
        with torch.inference_mode():
            predictions = model(dataset[items[row]].to(device))
        found = postprocess(predictions)[0]
        found = found.select(found.scores >= score)
        region = getattr(model, "region", None)
        trails = None
        if isinstance(region, Region):
            best = found.select(torch.arange(min(MOST_TRAILS, len(found)), device=device))
            trails = query_trails(predictions, best, region)
        found, trails = found.to("cpu"), trails.to("cpu") if trails is not None else None
        drawn_from_seen = invert_transform(torch.tensor(drawn.ego_from_ref[row])) @ torch.tensor(
            dataset.index.ego_from_ref[row]
        )
        return move_findings((found, trails), drawn_from_seen.float())

    return detect


def move_findings(findings: Findings, target_from_source: Tensor) -> Findings:
    """Findings of one frame told in another, by a rigid transform (4, 4)."""
    found, trails = findings
    found = replace(found, boxes=transform_boxes(target_from_source, found.boxes))
    if trails is None:
        return found, None
    samples = trails.samples
    return found, replace(
        trails,
        references=transform_points(target_from_source, trails.references),
        samples=None if samples is None else transform_points(target_from_source, samples),
    )
