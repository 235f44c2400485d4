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
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from det3d.boxes import transform_boxes
from det3d.data.nuscenes_index import DETECTION_CLASSES, NuScenesIndex
from det3d.geometry import invert_transform, transform_points
from det3d.structures import SceneBatch
from detr2d.config import Report
from detr2d.structures import Detections

RESULTS_FILE = "results_nusc.json"
SUMMARY_FILE = "metrics_summary.json"  # the devkit chooses the name
CONFIGURATION = "detection_cvpr_2019"
MAX_BOXES = 500  # per sample, nuScenes detection task
MOVING_SPEED = 0.2  # m/s; slower objects get the attribute of a resting one
CLASS_RANGES = {  # metres around the ego vehicle within which a class is judged
    "car": 50, "truck": 50, "construction_vehicle": 50, "bus": 50, "trailer": 50,
    "barrier": 30, "motorcycle": 40, "bicycle": 40, "pedestrian": 40, "traffic_cone": 30,
}  # fmt: skip
CLASS_REACH = torch.tensor([CLASS_RANGES[name] for name in DETECTION_CLASSES], dtype=torch.float64)
ATTRIBUTES = {  # (moving, resting), as the released camera detectors assign them
    "car": ("vehicle.moving", "vehicle.parked"),
    "truck": ("vehicle.moving", "vehicle.parked"),
    "construction_vehicle": ("vehicle.moving", "vehicle.parked"),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "trailer": ("vehicle.moving", "vehicle.parked"),
    "barrier": ("", ""),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "traffic_cone": ("", ""),
}
ERROR_NAMES = {  # the devkit's key of each mean true-positive error and its usual name
    "trans_err": "mATE",
    "scale_err": "mASE",
    "orient_err": "mAOE",
    "vel_err": "mAVE",
    "attr_err": "mAAE",
}

ResultBox = dict[str, Any]


class NuScenesEvaluator:
    """Writes detections of key frames as a submission and has the devkit judge them.

    Files in ``output_dir``: results_nusc.json (the submission), metrics_summary.json and
    metrics_details.json (the devkit's).
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

        Raises ValueError if there is no sample or one that is not in the database.
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
        summary, counts = official_metrics(path, root=self.root, version=self.index.version)
        return Report(metrics=headline(summary), table=format_table(summary, counts, len(results)))


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
    global_from_ego = torch.tensor(index.global_from_ego[row])
    ego_from_ref = torch.tensor(index.ego_from_ref[row])
    boxes = detections.boxes.detach().cpu().double()
    scores = detections.scores.detach().cpu().double()
    labels = detections.labels.detach().cpu()
    if not bool(boxes.isfinite().all() and scores.isfinite().all()):
        raise ValueError(f"sample {token} has detections that are not finite")
    distance = transform_points(ego_from_ref, boxes[:, :3])[:, :2].norm(dim=-1)
    best = scores.argsort(descending=True, stable=True)
    keep = best[(distance <= CLASS_REACH[labels])[best]][:MAX_BOXES]

    global_from_ref = global_from_ego @ ego_from_ref
    moved = transform_boxes(global_from_ref, boxes[keep])
    moving = moved[:, 7:9].norm(dim=-1) > MOVING_SPEED
    return ResultArrays(
        centres=moved[:, :3].numpy(),
        sizes=moved[:, [4, 3, 5]].numpy(),
        rotations=box_quaternions(global_from_ref, boxes[keep, 6]),
        velocities=moved[:, 7:9].numpy(),
        scores=scores[keep].numpy(),
        labels=labels[keep].numpy(),
        moving=moving.numpy(),
    )


def result_boxes(index: NuScenesIndex, token: str, detections: Detections) -> list[ResultBox]:
    """Detections in the ref frame of a sample as official boxes in the global frame."""
    return official_box_dicts(token, result_arrays(index, token, detections))


def official_box_dicts(token: str, found: ResultArrays) -> list[ResultBox]:
    """The judged arrays of a sample in the official result format."""
    names = [DETECTION_CLASSES[label] for label in found.labels.tolist()]
    columns = (
        names,
        found.centres.tolist(),
        found.sizes.tolist(),
        found.rotations.tolist(),
        found.velocities.tolist(),
        found.scores.tolist(),
        found.moving.tolist(),
    )
    return [
        {
            "sample_token": token,
            "translation": centre,
            "size": size,
            "rotation": rotation,
            "velocity": velocity,
            "detection_name": name,
            "detection_score": score,
            "attribute_name": ATTRIBUTES[name][0 if is_moving else 1],
        }
        for name, centre, size, rotation, velocity, score, is_moving in zip(*columns, strict=True)
    ]


def box_quaternions(target_from_source: Tensor, yaw: Tensor) -> np.ndarray:
    """Quaternions (N, 4), w x y z, in the target frame of boxes with ``yaw`` (N,) in the source.

    The tilt of the source frame is kept: this is the full rotation, not only a heading.
    """
    if len(yaw) == 0:
        return np.zeros((0, 4))
    frame = Rotation.from_matrix(target_from_source[:3, :3].numpy())
    turned = frame * Rotation.from_rotvec(yaw.numpy()[:, None] * [0.0, 0.0, 1.0])
    return np.roll(turned.as_quat(), 1, axis=-1)  # scipy writes w last


def read_result_boxes(
    index: NuScenesIndex, token: str, boxes: Iterable[Mapping[str, Any]]
) -> Detections:
    """Official boxes of one sample back in its ref frame, best score first (for viewing)."""
    ordered = sorted(boxes, key=lambda box: -box["detection_score"])
    row = index.row(token)
    ref_from_global = invert_transform(
        torch.tensor(index.global_from_ego[row] @ index.ego_from_ref[row])
    )
    numbers = []
    for box in ordered:
        width, length, height = box["size"]
        w, x, y, z = box["rotation"]
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        numbers.append([*box["translation"], length, width, height, yaw, *box["velocity"]])
    moved = transform_boxes(
        ref_from_global, torch.tensor(numbers, dtype=torch.float64).reshape(-1, 9)
    )
    return Detections(
        scores=torch.tensor([box["detection_score"] for box in ordered], dtype=torch.float32),
        labels=torch.tensor(
            [DETECTION_CLASSES.index(box["detection_name"]) for box in ordered], dtype=torch.int64
        ),
        boxes=moved.float(),
        queries=torch.arange(len(ordered)),
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


def write_submission(path: Path, results: Mapping[str, Any]) -> None:
    """Write a camera-only submission so that ``path`` is complete or absent."""
    meta = {
        "use_camera": True,
        "use_lidar": False,
        "use_radar": False,
        "use_map": False,
        "use_external": False,
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps({"meta": meta, "results": dict(results)}))
    os.replace(partial, path)


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
