"""The official COCO figures, from hotcoco and pycocotools alike."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detr2d.data.coco import CocoConfig
from detr2d.data.coco_classes import DETR_CLASSES
from detr2d.data.transforms import scaled_resolution
from detr2d.evaluation.coco import (
    FIGURES,
    CocoEvaluator,
    Kind,
    Library,
    ground_truth_detections,
    official_figures,
)
from detr2d.structures import Detections, ImageBatch
from tests.helpers.tiny_coco import write_tiny_coco

LIBRARIES: tuple[Library, ...] = ("hotcoco", "pycocotools")
REAL = Path(__file__).resolve().parents[3] / "../shared/real/coco_mini"
libraries = pytest.mark.parametrize("library", LIBRARIES)


@pytest.fixture
def data(tmp_path: Path) -> CocoConfig:
    return CocoConfig(
        root=write_tiny_coco(tmp_path / "tiny"),
        training_images="images",
        training_annotations="instances.json",
        evaluation_images="images",
        evaluation_annotations="instances.json",
        resolution=scaled_resolution(64),
    )


def detections(*rows: tuple[float, int, list[float]]) -> Detections:
    """Rows of score, label and normalised box."""
    return Detections(
        scores=torch.tensor([row[0] for row in rows]),
        labels=torch.tensor([row[1] for row in rows], dtype=torch.int64),
        boxes=torch.tensor([row[2] for row in rows]).reshape(-1, 4),
        queries=torch.arange(len(rows)),
    )


def perfect_results(data: CocoConfig, evaluator: CocoEvaluator) -> dict[str, Any]:
    dataset = data.evaluation_set()
    results: dict[str, Any] = {}
    for item in range(len(dataset)):
        batch = dataset[item]
        found = ground_truth_detections(batch)
        if data.masks:
            file, kept = dataset.file, []
            for position in file.annotations(item):
                kept += [] if file.crowd[position] else [position]
            found = [replace(found[0], masks=file.masks(item, kept))]
        results |= evaluator.format(batch, found)
    return results


@libraries
@pytest.mark.parametrize("masks", [False, True])
def test_ground_truth_scores_one(
    data: CocoConfig, tmp_path: Path, library: Library, masks: bool
) -> None:
    """Also the dog whose annotation id is 0, which the official matching would never find."""
    data = replace(data, masks=masks, evaluator_library=library)
    evaluator = data.evaluator(tmp_path)
    report = evaluator.summarize(perfect_results(data, evaluator))
    kinds = ["", "segm/"] if masks else [""]
    for name in (f"{kind}{figure}" for kind in kinds for figure in ("AP", "AP50", "AR100")):
        assert report.metrics[name] == pytest.approx(1)
    assert {name for name in report.metrics if name.startswith("AP/")} == {
        "AP/dog", "AP/cat", "AP/kite"
    }  # fmt: skip
    assert "3 images of instances.json" in report.table and library in report.table


@libraries
def test_figures_by_hand(data: CocoConfig, tmp_path: Path, library: Library) -> None:
    """One of two dogs found, exactly, after a false one: precision 1/2 up to recall 1/2."""
    data = replace(data, evaluator_library=library)
    evaluator, dataset = data.evaluator(tmp_path), data.evaluation_set()
    dog = [20 / 60, 20 / 40, 20 / 60, 30 / 40]
    wrong = [0.8, 0.9, 0.1, 0.1]
    results = evaluator.format(dataset[0], [detections((0.9, 0, wrong), (0.8, 0, dog))])
    results |= evaluator.format(dataset[2], [detections()])
    report = evaluator.summarize(results)
    assert report.metrics["AP/dog"] == pytest.approx(0.5 * 51 / 101)
    assert report.metrics["AP/cat"] == report.metrics["AP/kite"] == 0
    assert report.metrics["AP"] == pytest.approx(report.metrics["AP/dog"] / 3)
    assert report.metrics["AR100"] == pytest.approx(0.5 / 3)


@libraries
def test_a_detection_on_a_crowd_is_neither_right_nor_wrong(
    data: CocoConfig, tmp_path: Path, library: Library
) -> None:
    data = replace(data, evaluator_library=library)
    evaluator, dataset = data.evaluator(tmp_path), data.evaluation_set()
    dog, crowd = [20 / 60, 20 / 40, 20 / 60, 30 / 40], [0.5, 0.05, 0.2, 0.1]
    results = evaluator.format(dataset[0], [detections((0.9, 0, crowd), (0.8, 0, dog))])
    assert evaluator.summarize(results).metrics["AP/dog"] == pytest.approx(1)


@libraries
def test_no_detection_at_all_scores_zero(
    data: CocoConfig, tmp_path: Path, library: Library
) -> None:
    data = replace(data, evaluator_library=library)
    evaluator = data.evaluator(tmp_path)
    results = evaluator.format(data.evaluation_set()[0], [detections()])
    metrics = evaluator.summarize(results).metrics
    assert metrics["AP"] == 0 and metrics["AR100"] == 0


def test_results_are_in_the_official_format(data: CocoConfig, tmp_path: Path) -> None:
    evaluator, dataset = data.evaluator(tmp_path), data.evaluation_set()
    found = detections((0.75, 2, [0.5, 0.25, 0.5, 0.25]))
    results = pickle.loads(pickle.dumps(evaluator.format(dataset[0], [found])))
    evaluator.summarize(results)
    written = json.loads((tmp_path / "results_bbox.json").read_text())
    expected = {"image_id": 7, "category_id": 1000, "score": 0.75, "bbox": [15, 5, 30, 10]}
    assert written == [expected]
    assert json.loads((tmp_path / "metrics.json").read_text())["AP"] == 0


def test_labels_without_a_category_are_dropped(data: CocoConfig, tmp_path: Path) -> None:
    data = replace(data, classes=("nothing", "dog", "cat", "kite"))
    found = detections((0.9, 0, [0.5] * 4), (0.8, 1, [0.5] * 4))
    results = data.evaluator(tmp_path).format(data.evaluation_set()[0], [found])
    assert [result["category_id"] for result in results["7"]["bbox"]] == [0]


def test_detections_that_are_not_finite_are_refused(data: CocoConfig, tmp_path: Path) -> None:
    found = detections((0.9, 0, [0.5, float("nan"), 0.5, 0.5]))
    with pytest.raises(ValueError, match="image 7 has detections that are not finite"):
        data.evaluator(tmp_path).format(data.evaluation_set()[0], [found])


def test_masks_must_be_there_at_the_original_size(data: CocoConfig, tmp_path: Path) -> None:
    data = replace(data, masks=True)
    evaluator, batch = data.evaluator(tmp_path), data.evaluation_set()[0]
    found = detections((0.9, 0, [0.5] * 4))
    with pytest.raises(ValueError, match=r"image 7 of size \[40, 60\] .* no masks"):
        evaluator.format(batch, [found])
    with pytest.raises(ValueError, match=r"masks of \(64, 96\)"):
        evaluator.format(batch, [replace(found, masks=torch.zeros(1, 64, 96).bool())])


def test_unknown_images_and_no_images_are_refused(data: CocoConfig, tmp_path: Path) -> None:
    evaluator = data.evaluator(tmp_path)
    with pytest.raises(ValueError, match=r"no results to judge on .*instances\.json"):
        evaluator.summarize({})
    with pytest.raises(ValueError, match=r"image 99 is not in .*instances\.json"):
        evaluator.summarize({"99": {"bbox": []}})


def test_ground_truth_detections_need_targets() -> None:
    size = torch.tensor([[4.0, 4.0]])
    batch = ImageBatch(torch.zeros(1, 3, 4, 4), size, ("8",), size)
    with pytest.raises(ValueError, match="images 8 have no targets"):
        ground_truth_detections(batch)


def random_world(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Random objects, crowds and detections with tied scores in six images, three categories."""
    draw = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, 7):
        for _ in range(int(draw.integers(0, 9))):
            box = [*draw.uniform(0, 60, 2).round(1), *draw.uniform(2, 90, 2).round(1)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(draw.integers(1, 4)),
                    "bbox": [float(v) for v in box],
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(draw.random() < 0.15),
                }
            )
        for _ in range(int(draw.integers(0, 12))):
            near = annotations[int(draw.integers(len(annotations)))] if annotations else None
            start = np.array(near["bbox"]) if near else np.array([5.0, 5, 20, 20])
            results.append(
                {
                    "image_id": image,
                    "category_id": near["category_id"] if near else 1,
                    "bbox": (start + draw.normal(0, 2, 4)).clip(0.5).round(2).tolist(),
                    "score": float(draw.integers(1, 6) / 5),
                }
            )
    truth = {
        "images": [{"id": image, "height": 160, "width": 160} for image in range(1, 7)],
        "annotations": annotations,
        "categories": [{"id": number, "name": str(number)} for number in (1, 2, 3)],
    }
    return truth, results


@pytest.mark.parametrize("seed", range(8))
def test_both_libraries_agree_on_random_worlds(seed: int) -> None:
    truth, results = random_world(seed)
    ours, oracle = (official_figures(truth, results, "bbox", name) for name in LIBRARIES)
    assert list(ours.summary.values()) == pytest.approx(list(oracle.summary.values()), abs=1e-12)
    assert ours.per_category == pytest.approx(oracle.per_category, abs=1e-12)


def published(kind: Kind) -> list[float]:
    text = (REAL / "cocoeval_ref/val2014_fake_eval_res.txt").read_text()
    section = text.split(f"type={kind}")[1].split("type=")[0]
    return [float(value) for value in re.findall(r"\] = (\S+)", section)]


@pytest.mark.real
@libraries
@pytest.mark.parametrize(("kind", "ap"), [("bbox", 0.505), ("segm", 0.320)])
def test_published_figures_come_out(
    kind: Kind, ap: float, library: Library, tmp_path: Path
) -> None:
    """COCO's own fake results, through our evaluator: all 24 figures that were printed for them."""
    folder = REAL / "cocoeval_ref"
    if not folder.is_dir():
        pytest.skip("no official reference in ../shared/real/coco_mini/cocoeval_ref")
    data = CocoConfig(
        root=folder,
        evaluation_annotations="instances_val2014_100.json",
        classes=DETR_CLASSES,
        masks=True,
        evaluator_library=library,
    )
    evaluator = data.evaluator(tmp_path)
    results = {token: {"bbox": [], "segm": []} for token in evaluator.file.rows_by_token}
    fake = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    for result in fake:
        results[str(result["image_id"])][kind].append(result)
    metrics = evaluator.summarize(results).metrics
    prefix = "" if kind == "bbox" else "segm/"
    figures = [round(metrics[prefix + name], 3) for name in FIGURES]
    assert figures == published(kind) and len(figures) == 12
    assert figures[0] == ap


@pytest.mark.real
@libraries
def test_real_ground_truth_scores_one(library: Library, tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("no real COCO images in ../shared/real/coco_mini")
    data = CocoConfig(
        root=REAL,
        classes=DETR_CLASSES,
        resolution=scaled_resolution(64),
        masks=True,
        evaluator_library=library,
    )
    evaluator = data.evaluator(tmp_path)
    metrics = evaluator.summarize(perfect_results(data, evaluator)).metrics
    assert metrics["AP"] == pytest.approx(1, abs=1e-9)
    assert metrics["segm/AP"] == pytest.approx(1, abs=1e-9)
    assert sum(name.startswith("AP/") for name in metrics) == 80
