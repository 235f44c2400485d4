"""The array metrics against the devkit, figure by figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from det3d.data.nuscenes import NuScenesConfig
from det3d.data.nuscenes_index import DETECTION_CLASSES
from det3d.evaluation.nuscenes import (
    ERROR_NAMES,
    NuScenesEvaluator,
    ResultArrays,
    ground_truth_detections,
)
from det3d.evaluation.nuscenes_arrays import ArrayEvaluator, Judged, match_centres
from det3d.evaluation.nuscenes_truth import JudgedObjects
from det3d.structures import SceneBatch
from detr2d.structures import Detections
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

Change = Callable[[Detections, torch.Generator], Detections]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> NuScenesConfig:
    folder = tmp_path_factory.mktemp("tiny")
    return NuScenesConfig(
        root=write_tiny_nuscenes(folder / "db"),
        version="v1.0-mini",
        evaluation_split="mini_train",
        image_size=(45, 80),
        index_dir=folder / "index",
    )


@pytest.fixture(scope="module")
def scenes(data: NuScenesConfig) -> list[SceneBatch]:
    return list(data.evaluation_set())


def exact(found: Detections, noise: torch.Generator) -> Detections:
    return found


def noisy(found: Detections, noise: torch.Generator) -> Detections:
    shift = torch.randn(found.boxes.shape, generator=noise) * 0.4
    scores = torch.rand(len(found), generator=noise)
    return replace(found, boxes=found.boxes + shift.clamp(-0.3, 1.5), scores=scores)


def crowded(found: Detections, noise: torch.Generator) -> Detections:
    """Eight guesses around every object, many with equal scores, and other classes among them."""
    copies = [noisy(found, noise) for _ in range(8)]
    boxes = torch.cat([copy.boxes for copy in copies])
    labels = torch.cat([copy.labels for copy in copies])
    wrong = torch.rand(len(labels), generator=noise) < 0.2
    return Detections(
        scores=(torch.cat([copy.scores for copy in copies]) * 20).round() / 20,
        labels=labels.where(~wrong, (labels + 1) % 10),
        boxes=boxes,
        queries=torch.arange(len(boxes)),
    )


def empty(found: Detections, noise: torch.Generator) -> Detections:
    return found.select(torch.zeros(len(found), dtype=torch.bool))


def cars_only(found: Detections, noise: torch.Generator) -> Detections:
    return noisy(found.select(found.labels == 0), noise)


@pytest.mark.parametrize("change", [exact, noisy, crowded, empty, cars_only])
def test_every_figure_is_the_devkits(
    data: NuScenesConfig, scenes: list[SceneBatch], tmp_path: Path, change: Change
) -> None:
    noise = torch.Generator().manual_seed(3)
    found = [change(ground_truth_detections(scene)[0], noise) for scene in scenes]
    summaries = {}
    for judge in ("devkit", "arrays"):
        evaluator = replace(data, judge=judge).evaluator(tmp_path / judge)  # type: ignore[arg-type]
        results: dict[str, object] = {}
        for scene, detections in zip(scenes, found, strict=True):
            results |= evaluator.format(scene, [detections])
        report = evaluator.summarize(results)
        summaries[judge] = json.loads((tmp_path / judge / "metrics_summary.json").read_text())
        assert report.metrics["NDS"] == summaries[judge]["nd_score"]
    devkit, arrays = summaries["devkit"], summaries["arrays"]
    for name in DETECTION_CLASSES:
        assert arrays["label_aps"][name] == pytest.approx(devkit["label_aps"][name], abs=1e-9)
        assert arrays["label_tp_errors"][name] == pytest.approx(
            devkit["label_tp_errors"][name], abs=1e-6, nan_ok=True
        )
    assert arrays["tp_errors"] == pytest.approx(devkit["tp_errors"], abs=1e-6)
    assert arrays["tp_scores"] == pytest.approx(devkit["tp_scores"], abs=1e-6)
    assert arrays["mean_ap"] == pytest.approx(devkit["mean_ap"], abs=1e-9)
    assert arrays["nd_score"] == pytest.approx(devkit["nd_score"], abs=1e-6)
    assert set(arrays["tp_errors"]) == set(ERROR_NAMES)


def test_who_judges_is_a_setting(data: NuScenesConfig, tmp_path: Path) -> None:
    assert isinstance(data.evaluator(tmp_path), NuScenesEvaluator)
    assert isinstance(replace(data, judge="arrays").evaluator(tmp_path), ArrayEvaluator)


def test_unknown_samples_are_refused(data: NuScenesConfig, tmp_path: Path) -> None:
    evaluator = replace(data, judge="arrays").evaluator(tmp_path)
    with pytest.raises(ValueError, match=r"results name 1 samples, 1 of them not in .* nothing"):
        evaluator.summarize({"nothing": None})


def found_at(*places: float) -> Judged:
    count = len(places)
    centres = np.array([[place, 0, 0] for place in places], dtype=float).reshape(-1, 3)
    return Judged(
        np.zeros(count, dtype=np.int64),
        ResultArrays(
            centres=centres,
            sizes=np.ones((count, 3)),
            rotations=np.tile([1.0, 0, 0, 0], (count, 1)),
            velocities=np.zeros((count, 2)),
            scores=np.linspace(1, 0.5, count),
            labels=np.zeros(count, dtype=np.int64),
            moving=np.zeros(count, dtype=bool),
        ),
    )


def objects_at(*places: float) -> JudgedObjects:
    count = len(places)
    return JudgedObjects(
        rows=np.zeros(count, dtype=np.int64),
        labels=np.zeros(count, dtype=np.int64),
        centres=np.array([[place, 0, 0] for place in places], dtype=float).reshape(-1, 3),
        sizes=np.ones((count, 3)),
        rotations=np.tile([1.0, 0, 0, 0], (count, 1)),
        velocities=np.zeros((count, 2)),
        points=np.ones(count, dtype=np.int64),
        attributes=np.array([b""] * count),
    )


def test_the_better_prediction_takes_the_nearest_free_object() -> None:
    matches = match_centres(found_at(0.6, 0.1, 0.2), objects_at(0.0, 1.5))
    # 0.5 m: the first is too far from both; the second takes object 0; the third finds 1.3 m.
    assert [matched.tolist() for matched in matches] == [
        [-1, 0, -1],
        [0, -1, -1],
        [0, 1, -1],
        [0, 1, -1],
    ]


def test_nothing_matches_across_samples() -> None:
    found, truth = found_at(0.0), objects_at(0.0)
    other = JudgedObjects(**{**vars(truth), "rows": np.ones(1, dtype=np.int64)})
    assert all((matched == -1).all() for matched in match_centres(found, other))
