"""Boxes of other conventions are recognised by the errors that the official evaluation reports."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from det3d.checkpoints.mmdet3d import boxes_from_released
from det3d.data.nuscenes import NuScenesConfig
from det3d.evaluation.conventions import wrong_conventions
from det3d.evaluation.nuscenes import ground_truth_detections
from detr2d.config import Report
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> NuScenesConfig:
    folder = tmp_path_factory.mktemp("tiny")
    return NuScenesConfig(
        root=write_tiny_nuscenes(folder / "db"), version="v1.0-mini", image_size=(45, 80),
        evaluation_split="mini_train", index_dir=folder / "index",
    )  # fmt: skip


def report_of(data: NuScenesConfig, change: Callable[[Tensor], Tensor], folder: Path) -> Report:
    """The report on the ground truth with all boxes changed."""
    evaluator, results = data.evaluator(folder), {}
    for scene in data.evaluation_set():
        found = ground_truth_detections(scene)[0]
        results |= evaluator.format(scene, [replace(found, boxes=change(found.boxes))])
    return evaluator.summarize(results)


def swapped(boxes: Tensor) -> Tensor:
    return boxes[:, [0, 1, 2, 4, 3, 5, 6, 7, 8]]


def turned(angle: float) -> Callable[[Tensor], Tensor]:
    def turn(boxes: Tensor) -> Tensor:
        return torch.cat([boxes[:, :6], boxes[:, 6:7] + angle, boxes[:, 7:]], dim=1)

    return turn


def test_boxes_of_old_mmdet3d_are_recognised(data: NuScenesConfig, tmp_path: Path) -> None:
    report = report_of(data, boxes_from_released, tmp_path)
    assert report.metrics["mAP"] == pytest.approx(1)
    assert "note: length and width look swapped" in report.table
    assert "mmdet3d before 1.0" in report.table


def test_both_parts_are_named_together(data: NuScenesConfig, tmp_path: Path) -> None:
    table = report_of(data, lambda b: turned(math.pi / 2)(swapped(b)), tmp_path).table
    assert "length and width look swapped" in table and "yaw looks a quarter turn off" in table


@pytest.mark.parametrize(
    "change, note",
    [
        (swapped, "length and width look swapped"),
        (turned(math.pi / 2), "yaw looks a quarter turn off"),
        (turned(math.pi), "yaw looks half a turn off"),
    ],
)
def test_each_part_is_named_alone(
    data: NuScenesConfig, tmp_path: Path, change: Callable[[Tensor], Tensor], note: str
) -> None:
    table = report_of(data, change, tmp_path).table
    assert table.count("note: ") == 1 and note in table


def test_right_boxes_and_slightly_wrong_ones_are_left_alone(
    data: NuScenesConfig, tmp_path: Path
) -> None:
    assert "note" not in report_of(data, turned(0.3), tmp_path).table


def test_nothing_is_said_about_classes_that_are_not_found() -> None:
    errors = {"scale_err": 0.8, "orient_err": 1.6}
    names = ("car", "truck", "bus", "trailer", "motorcycle", "bicycle")
    summary = {
        "mean_dist_aps": dict.fromkeys(names, 0.05),
        "label_tp_errors": dict.fromkeys(names, errors),
    }
    assert wrong_conventions(summary) == []
    assert len(wrong_conventions({**summary, "mean_dist_aps": dict.fromkeys(names, 0.2)})) == 2
