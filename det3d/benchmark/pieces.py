"""Benchmark cases of the 3D world: sampling cameras, judging."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from det3d.camera_gather import camera_features, gather, gather_all
from det3d.cameras import CameraRig
from det3d.data.nuscenes_index import (
    ARRAYS,
    DETECTION_CLASSES,
    NuScenesIndex,
    load_index,
    write_index,
)
from det3d.evaluation.nuscenes import CONFIGURATION, ERROR_NAMES, ResultArrays
from det3d.evaluation.nuscenes_arrays import array_metrics
from det3d.evaluation.nuscenes_truth import JudgedObjects
from det3d.results.format import Objects
from det3d.results.geometry import quaternion_yaws
from det3d.results.nuscenes import ATTRIBUTES, to_official, write_submission
from detr2d.benchmark.measure import Case, Contender, Duel, Setup

SAMPLES, BOXES, OBJECTS = 150, 300, 34
LEVELS = ((116, 200), (58, 100), (29, 50), (15, 25))  # of 928 x 1600
CANVAS = (928, 1600)


def ring_rig(cameras: int, canvas: tuple[int, int] = CANVAS) -> CameraRig:
    """Cameras in the middle that look outwards in all directions, 70 degrees wide each."""
    turn = torch.arange(cameras) * (2 * math.pi / cameras)
    camera_from_ref = torch.zeros(1, cameras, 4, 4)
    camera_from_ref[0, :, 0, 0], camera_from_ref[0, :, 0, 1] = turn.sin(), -turn.cos()
    camera_from_ref[0, :, 1, 2] = -1
    camera_from_ref[0, :, 2, 0], camera_from_ref[0, :, 2, 1] = turn.cos(), turn.sin()
    camera_from_ref[0, :, 3, 3] = 1
    height, width = canvas
    focal = width / 2 / math.tan(math.radians(35))
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return CameraRig(
        intrinsics=intrinsics.expand(1, cameras, 3, 3),
        camera_from_ref=camera_from_ref,
        image_sizes=torch.tensor(canvas, dtype=torch.float32).expand(1, cameras, 2),
        present=torch.ones(1, cameras, dtype=torch.bool),
        timestamps=torch.zeros(1, cameras, dtype=torch.float64),
    )


def sampling_duels(setup: Setup) -> Iterator[Duel]:
    """Features of 900 points in 6 x 4 maps of 928 x 1600 images: visible pairs against all."""
    torch.manual_seed(0)
    rig = ring_rig(6).to(setup.device)
    maps = [torch.randn(6, 256, *size).to(setup.device) for size in LEVELS]
    memory = camera_features(maps, rig, CANVAS)  # once a forward pass, for all layers
    points = (torch.rand(1, 900, 3) - 0.5) * torch.tensor([102.4, 102.4, 8.0])
    projection = rig.project(points.to(setup.device))
    pixels = projection.pixels[:, :, :, None, None]
    visible = projection.visible[..., None, None]
    weights = torch.rand(1, 6, 900, 1, 4, 1, device=setup.device)

    def program(sample: Any, *, backward: bool) -> Any:
        def run() -> Mapping[str, Tensor]:
            with torch.set_grad_enabled(backward):
                table = replace(memory, table=memory.table.detach().requires_grad_(backward))
                found = sample(table, pixels, weights, visible)
                if backward:
                    found.square().sum().backward()
            gradient = {"gradient": table.table.grad} if table.table.grad is not None else {}
            return {"features": found.detach(), **gradient}

        return run

    for title, backward in (("forward", False), ("forward + backward", True)):
        yield Duel(
            f"900 queries, 6 x 4 maps of 928x1600, {title}",
            ours=(Contender("visible pairs", program(gather, backward=backward), dict),),
            peers=(Contender("grid_sample, all", program(gather_all, backward=backward), dict),),
        )


def noise_index(samples: int, directory: Path) -> NuScenesIndex:
    """An index with the arrays of ``noise_arrays``."""
    meta = {"version": "v1.0-mini", "channels": ["CAM"] * 6, "splits": {}}
    write_index(directory, noise_arrays(samples), meta)
    return load_index(directory)


def noise_arrays(samples: int) -> dict[str, np.ndarray]:
    """Arrays of an index of one scene at the origin, which hold little but their shapes."""
    eye = np.eye(4)
    return {name: np.zeros(samples) for name in ARRAYS} | {
        "scene_names": np.array([b"scene-0001"]),
        "sample_tokens": np.array([f"{row:032x}".encode() for row in range(samples)]),
        "sample_scenes": np.zeros(samples, dtype=np.int32),
        "global_from_ego": np.tile(eye, (samples, 1, 1)),
        "ego_from_ref": np.tile(eye, (samples, 1, 1)),
        "image_files": np.full((samples, 6), b"samples/CAM/" + b"x" * 60),
        "intrinsics": np.zeros((samples, 6, 3, 3)),
        "camera_from_ref": np.zeros((samples, 6, 4, 4)),
        "object_starts": np.arange(samples + 1) * OBJECTS,
        "object_boxes": np.zeros((samples * OBJECTS, 9), dtype=np.float32),
        "object_labels": np.zeros(samples * OBJECTS, dtype=np.int64),
        "object_points": np.ones(samples * OBJECTS, dtype=np.int64),
    }


def noise_results(index: NuScenesIndex) -> tuple[JudgedObjects, dict[str, ResultArrays]]:
    """Random objects and, for every sample, detections around them and around nothing."""
    chance = np.random.default_rng(0)
    count = len(index) * OBJECTS
    names = [ATTRIBUTES[name][0].encode() for name in DETECTION_CLASSES]
    labels = chance.integers(0, 10, count)
    objects = JudgedObjects(
        rows=np.repeat(np.arange(len(index)), OBJECTS),
        labels=labels,
        centres=chance.uniform(-35, 35, (count, 3)),
        sizes=chance.uniform(1, 5, (count, 3)),
        rotations=_upright(chance.uniform(-3, 3, count)),
        velocities=chance.normal(0, 2, (count, 2)),
        points=np.ones(count, dtype=np.int64),
        attributes=np.array(names, dtype="S64")[labels],
    )
    results = {}
    for row, token in enumerate(index.sample_tokens):
        near = row * OBJECTS + chance.integers(0, OBJECTS, BOXES)
        shift = chance.normal(0, 1.5, (BOXES, 3))
        results[str(token, "utf-8")] = ResultArrays(
            centres=objects.centres[near] + shift,
            sizes=objects.sizes[near] * chance.uniform(0.8, 1.2, (BOXES, 3)),
            rotations=_upright(chance.uniform(-3, 3, BOXES)),
            velocities=chance.normal(0, 2, (BOXES, 2)),
            scores=chance.uniform(size=BOXES),
            labels=objects.labels[near],
            moving=chance.uniform(size=BOXES) < 0.5,
        )
    return objects, results


def _upright(yaw: np.ndarray) -> np.ndarray:
    """Quaternions (N, 4), w x y z, of rotations about the vertical axis."""
    zeros = np.zeros(len(yaw))
    return np.stack([np.cos(yaw / 2), zeros, zeros, np.sin(yaw / 2)], axis=1)


def _official(token: str, found: ResultArrays) -> list[dict[str, Any]]:
    """The arrays of a sample whose ref frame is the global one, as a submission has them."""
    yaw = quaternion_yaws(found.rotations)[:, None]
    boxes = np.hstack([found.centres, found.sizes[:, [1, 0, 2]], yaw, found.velocities])
    names = [DETECTION_CLASSES[label] for label in found.labels.tolist()]
    attributes = tuple(
        ATTRIBUTES[name][0 if moving else 1]
        for name, moving in zip(names, found.moving.tolist(), strict=True)
    )
    objects = Objects(boxes, found.labels, found.scores, attributes=attributes)
    return to_official(objects, token, np.eye(4))


class _Tables:
    """What the devkit's filters ask a database for: ego poses at the origin, no bicycle racks."""

    def get(self, table: str, token: str) -> dict[str, Any]:
        rows: dict[str, dict[str, Any]] = {
            "sample": {"anns": [], "data": {"LIDAR_TOP": ""}},
            "sample_data": {"ego_pose_token": ""},
            "ego_pose": {"translation": [0.0, 0.0, 0.0]},
        }
        return rows[table]


def judging_duels(setup: Setup) -> Iterator[Duel]:
    """From detections in memory to NDS; the devkit through its submission file."""
    with TemporaryDirectory() as folder:
        index = noise_index(SAMPLES, Path(folder) / "index")
        objects, results = noise_results(index)
        truth = devkit_truth(index, objects)
        path = Path(folder) / "results_nusc.json"

        def devkit() -> dict[str, Any]:
            boxes = {token: _official(token, found) for token, found in results.items()}
            write_submission(path, boxes)
            return devkit_metrics(path, truth)

        yield Duel(
            f"{SAMPLES} samples x {BOXES} boxes, {OBJECTS} objects",
            ours=(
                Contender(
                    "arrays", lambda: array_metrics(index, objects, results)[0], _figures, 1e-5
                ),
            ),
            peers=(Contender("nuscenes-devkit", devkit, _figures),),
        )


def devkit_truth(index: NuScenesIndex, objects: JudgedObjects) -> dict[str, list[dict[str, Any]]]:
    """The annotations of each sample as arguments of the devkit's boxes."""
    truth: dict[str, list[dict[str, Any]]] = {str(t, "utf-8"): [] for t in index.sample_tokens}
    tokens = list(truth)
    columns = [
        getattr(objects, name).tolist()
        for name in (
            "rows",
            "labels",
            "centres",
            "sizes",
            "rotations",
            "velocities",
            "points",
            "attributes",
        )
    ]
    for row, label, centre, size, rotation, velocity, points, attribute in zip(
        *columns, strict=True
    ):
        truth[tokens[row]].append(
            {
                "sample_token": tokens[row],
                "translation": centre,
                "size": size,
                "rotation": rotation,
                "velocity": velocity,
                "num_pts": points,
                "detection_name": DETECTION_CLASSES[label],
                "detection_score": -1.0,
                "attribute_name": attribute.decode(),
            }
        )
    return truth


def devkit_metrics(path: Path, truth: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The devkit's summary of a submission against annotations that are in memory."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes, load_prediction
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.eval.detection.evaluate import DetectionEval

    judge = DetectionEval.__new__(DetectionEval)
    judge.cfg, judge.verbose = config_factory(CONFIGURATION), False
    predicted, _ = load_prediction(str(path), judge.cfg.max_boxes_per_sample, DetectionBox)
    annotated = EvalBoxes()
    for token, boxes in truth.items():
        annotated.add_boxes(token, [DetectionBox(**box) for box in boxes])
    tables: Any = _Tables()
    judge.pred_boxes, judge.gt_boxes = (
        filter_eval_boxes(tables, add_center_dist(tables, boxes), judge.cfg.class_range)
        for boxes in (predicted, annotated)
    )
    with contextlib.redirect_stdout(io.StringIO()):
        metrics, _ = judge.evaluate()
    return metrics.serialize()


def _figures(summary: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The NDS, the APs and the mean errors as tensors."""
    return {
        "NDS": torch.tensor([summary["nd_score"]], dtype=torch.float64),
        "AP": torch.tensor(
            [list(summary["label_aps"][name].values()) for name in DETECTION_CLASSES],
            dtype=torch.float64,
        ),
        "errors": torch.tensor(
            [summary["tp_errors"][key] for key in ERROR_NAMES], dtype=torch.float64
        ),
    }


CASES = (
    Case("op.camera_sample", "DETR3D's sampling of camera features", sampling_duels),
    Case("eval.nusc", "nuScenes detection metrics", judging_duels),
)
