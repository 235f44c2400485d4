"""nuScenes detection evaluation: detections -> official submission -> official metrics.

The numbers are the devkit's own code (``DetectionEval``, configuration detection_cvpr_2019); what
is added is only that any set of samples can be judged, not just a whole split. The devkit takes
seconds to import and is loaded when an evaluation runs, not before.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from det3d.boxes import transform_boxes
from det3d.data.nuscenes_index import DETECTION_CLASSES, NuScenesIndex
from det3d.evaluation.conventions import wrong_conventions
from det3d.geometry import transform_points
from det3d.results.format import Objects, write_results
from det3d.results.geometry import box_rotations, quaternions
from det3d.results.nuscenes import (
    CLASS_RANGES,
    MOVING_SPEED,
    ResultBox,
    database_results,
    from_official,
    to_official,
    write_submission,
)
from det3d.structures import SceneBatch
from detr2d.config import Report
from detr2d.structures import Detections

RESULTS_FILE = "results_nusc.json"
VIEW_FILE = "results.json"  # the same with rig and ground truth, for the viewers
SUMMARY_FILE = "metrics_summary.json"  # the devkit chooses the name
CONFIGURATION = "detection_cvpr_2019"
MAX_BOXES = 500  # per sample, nuScenes detection task
CLASS_REACH = torch.tensor([CLASS_RANGES[name] for name in DETECTION_CLASSES], dtype=torch.float64)
ERROR_NAMES = {  # the devkit's key of each mean true-positive error and its usual name
    "trans_err": "mATE",
    "scale_err": "mASE",
    "orient_err": "mAOE",
    "vel_err": "mAVE",
    "attr_err": "mAAE",
}


class NuScenesEvaluator:
    """Writes detections of key frames as a submission and has the devkit judge them.

    Files in ``output_dir``: results_nusc.json (the submission), results.json (the same with rig
    and ground truth, for the viewers), and the devkit's metrics_summary.json and
    metrics_details.json.
    """

    def __init__(self, index: NuScenesIndex, *, root: Path, output_dir: Path) -> None:
        self.index = index
        self.root = root
        self.output_dir = output_dir

    def format(self, batch: SceneBatch, detections: list[Detections]) -> dict[str, list[ResultBox]]:
        """Boxes of each sample in the official result format, by sample token.

        Boxes beyond the range of their class are dropped, then all but the best 500 of a sample.
        Raises ValueError for a box that is not finite.
        """
        return {
            token: result_boxes(self.index, token, found)
            for token, found in zip(batch.tokens, detections, strict=True)
        }

    def summarize(self, results: dict[str, Any]) -> Report:
        """Write the submission and judge it on exactly the samples that ``results`` names.

        The report says so if the errors look like those of another box convention. Raises
        ValueError if there is no sample or one that is not in the database.
        """
        unknown = [token for token in results if token not in self.index.rows_by_token]
        if unknown or not results:
            raise ValueError(
                f"results name {len(results)} samples, {len(unknown)} of them not in "
                f"{self.index.version} of {self.root}: {', '.join(unknown[:3])}"
            )
        self.output_dir.mkdir(parents=True, exist_ok=True)
        path = self.output_dir / RESULTS_FILE
        write_submission(path, results)
        rows = sorted(self.index.rows_by_token[token] for token in results)
        view = database_results(self.index, self.root, rows, results)
        write_results(self.output_dir / VIEW_FILE, view)
        summary, counts = official_metrics(path, root=self.root, version=self.index.version)
        table = format_table(summary, counts, len(results))
        notes = [f"note: {note}" for note in wrong_conventions(summary)]
        return Report(metrics=headline(summary), table="\n".join([table, *notes]))


@dataclass(frozen=True)
class ResultArrays:
    """Detections of one sample as the official evaluation judges them, in the global frame.

    centres (N, 3) and sizes (N, 3) (width, length, height) in metres; rotations (N, 4) quaternions
    w x y z; velocities (N, 2) in m/s; scores (N,); labels (N,); moving (N,) bool chooses the
    attribute. All float64 but labels and moving.
    """

    centres: np.ndarray
    sizes: np.ndarray
    rotations: np.ndarray
    velocities: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    moving: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


def result_arrays(index: NuScenesIndex, token: str, detections: Detections) -> ResultArrays:
    """Detections in the ref frame of a sample, in the global frame, best score first.

    Boxes beyond the range of their class are dropped, then all but the best 500. Raises ValueError
    for a box that is not finite.
    """
    row = index.row(token)
    ego_from_ref = torch.tensor(index.ego_from_ref[row])
    global_from_ref = torch.tensor(index.global_from_ego[row]) @ ego_from_ref
    kept = detections.select(judged(token, detections, ego_from_ref))
    boxes = kept.boxes.detach().cpu().double()
    moved = transform_boxes(global_from_ref, boxes)
    return ResultArrays(
        centres=moved[:, :3].numpy(),
        sizes=moved[:, [4, 3, 5]].numpy(),
        rotations=box_quaternions(global_from_ref, boxes[:, 6]),
        velocities=moved[:, 7:9].numpy(),
        scores=kept.scores.detach().cpu().double().numpy(),
        labels=kept.labels.cpu().numpy(),
        moving=(moved[:, 7:9].norm(dim=-1) > MOVING_SPEED).numpy(),
    )


def result_boxes(index: NuScenesIndex, token: str, detections: Detections) -> list[ResultBox]:
    """Detections in the ref frame of a sample as official boxes in the global frame."""
    row = index.row(token)
    global_from_ego = torch.tensor(index.global_from_ego[row])
    return official_boxes(token, detections, global_from_ego, torch.tensor(index.ego_from_ref[row]))


def official_boxes(
    token: str, detections: Detections, global_from_ego: Tensor, ego_from_ref: Tensor
) -> list[ResultBox]:
    """The same with the transforms (4, 4), float64, given."""
    kept = detections.select(judged(token, detections, ego_from_ref))
    objects = Objects(
        kept.boxes.detach().cpu().double().numpy(),
        kept.labels.cpu().numpy(),
        kept.scores.detach().cpu().double().numpy(),
    )
    return to_official(objects, token, (global_from_ego @ ego_from_ref).numpy())


def judged(token: str, detections: Detections, ego_from_ref: Tensor) -> Tensor:
    """Which detections the benchmark sees, best first: in the range of their class, 500 at most.

    Raises ValueError for a box that is not finite.
    """
    boxes = detections.boxes.detach().cpu().double()
    scores = detections.scores.detach().cpu().double()
    if not bool(boxes.isfinite().all() and scores.isfinite().all()):
        raise ValueError(f"sample {token} has detections that are not finite")
    distance = transform_points(ego_from_ref, boxes[:, :3])[:, :2].norm(dim=-1)
    best = scores.argsort(descending=True, stable=True)
    within = distance <= CLASS_REACH[detections.labels.detach().cpu()]
    return best[within[best]][:MAX_BOXES].to(detections.scores.device)


def box_quaternions(target_from_source: Tensor, yaw: Tensor) -> np.ndarray:
    """Quaternions (N, 4), w x y z, in the target frame of boxes with ``yaw`` (N,) in the source.

    The tilt of the source frame is kept: this is the full rotation, not only a heading.
    """
    return quaternions(box_rotations(target_from_source.numpy(), yaw.numpy()))


def read_result_boxes(
    index: NuScenesIndex, token: str, boxes: Iterable[Mapping[str, Any]]
) -> Detections:
    """Official boxes of one sample back in its ref frame, best score first (for viewing)."""
    row = index.row(token)
    return to_detections(from_official(boxes, index.global_from_ego[row] @ index.ego_from_ref[row]))


def to_detections(objects: Objects) -> Detections:
    """Objects of the result format as detections; without scores they all have score 1."""
    scores = np.ones(len(objects)) if objects.scores is None else objects.scores
    return Detections(
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(objects.labels, dtype=torch.int64),
        boxes=torch.tensor(objects.boxes, dtype=torch.float32),
        queries=torch.arange(len(objects)),
    )


def ground_truth_detections(batch: SceneBatch) -> list[Detections]:
    """The targets of each scene as detections with score 1; unknown velocities become 0.

    Raises ValueError for a batch without targets.
    """
    if batch.targets is None:
        raise ValueError(f"samples {', '.join(batch.tokens)} have no targets")
    return [
        Detections(
            scores=torch.ones(len(targets)),
            labels=targets.labels,
            boxes=torch.cat([targets.boxes[:, :7], targets.boxes[:, 7:].nan_to_num(0.0)], dim=1),
            queries=torch.arange(len(targets)),
        )
        for targets in batch.targets
    ]


def official_metrics(
    path: Path, *, root: Path, version: str
) -> tuple[dict[str, Any], dict[str, int]]:
    """The devkit's metrics summary of a submission, and the number of judged objects by class.

    Does what ``DetectionEval`` does, step by step with its functions, except that the samples are
    those of the submission. The devkit cannot filter a set without any box, so that step is
    skipped where there is none.
    """
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import (
        add_center_dist,
        filter_eval_boxes,
        load_gt_of_sample_tokens,
        load_prediction,
    )
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.eval.detection.evaluate import DetectionEval

    database = NuScenes(version=version, dataroot=str(root), verbose=False)
    judge = DetectionEval.__new__(DetectionEval)
    judge.nusc, judge.cfg, judge.verbose = database, config_factory(CONFIGURATION), False
    judge.result_path, judge.output_dir = str(path), str(path.parent)
    predicted, judge.meta = load_prediction(
        str(path), judge.cfg.max_boxes_per_sample, DetectionBox, verbose=False
    )
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be switched off
        annotated = load_gt_of_sample_tokens(database, predicted.sample_tokens, DetectionBox)
    judge.pred_boxes, judge.gt_boxes = (
        filter_eval_boxes(database, add_center_dist(database, boxes), judge.cfg.class_range)
        if boxes.all
        else boxes
        for boxes in (predicted, annotated)
    )
    judge.sample_tokens = judge.gt_boxes.sample_tokens
    with contextlib.redirect_stdout(io.StringIO()):  # the table is printed by the caller
        judge.main(render_curves=False)
    names = [box.detection_name for box in judge.gt_boxes.all]
    counts = {name: names.count(name) for name in DETECTION_CLASSES}
    return json.loads((path.parent / SUMMARY_FILE).read_text()), counts


def headline(summary: Mapping[str, Any]) -> dict[str, float]:
    """mAP, NDS, the five mean errors and the AP of each class."""
    errors = {name: summary["tp_errors"][key] for key, name in ERROR_NAMES.items()}
    per_class = {f"AP/{name}": summary["mean_dist_aps"][name] for name in DETECTION_CLASSES}
    return {"mAP": summary["mean_ap"], "NDS": summary["nd_score"]} | errors | per_class


def format_table(summary: Mapping[str, Any], counts: Mapping[str, int], num_samples: int) -> str:
    """The official metrics as text: one line per class, then the means."""
    title = f"nuScenes detection, {CONFIGURATION}, {num_samples} samples"
    columns = ["AP", *(name.removeprefix("m") for name in ERROR_NAMES.values())]
    lines = [title, f"{'class':<22}{'objects':>8}" + "".join(f"{c:>8}" for c in columns)]
    for name in DETECTION_CLASSES:
        errors = summary["label_tp_errors"][name]
        values = [summary["mean_dist_aps"][name], *(errors[key] for key in ERROR_NAMES)]
        lines.append(f"{name:<22}{counts[name]:>8}" + "".join(map(format_value, values)))
    means = [summary["mean_ap"], *(summary["tp_errors"][key] for key in ERROR_NAMES)]
    lines.append(f"{'mean':<22}{sum(counts.values()):>8}" + "".join(map(format_value, means)))
    lines.append(f"mAP {summary['mean_ap']:.4f}   NDS {summary['nd_score']:.4f}")
    return "\n".join(lines)


def format_value(value: float) -> str:
    """A number in a column of eight, a dash where the metric is not defined for the class."""
    return f"{'-':>8}" if math.isnan(value) else f"{value:>8.3f}"
