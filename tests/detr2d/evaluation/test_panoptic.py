"""Panoptic quality: perfect, by hand, and against its definition."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detr2d.data.coco_classes import DETR_PANOPTIC_CLASSES
from detr2d.data.panoptic import CocoPanopticConfig
from detr2d.data.panoptic_files import PanopticFile, read_segment_map
from detr2d.data.transforms import scaled_resolution
from detr2d.structures import Detections, Segments
from tests.helpers.tiny_coco import SIZES, write_tiny_coco

REAL = Path(__file__).resolve().parents[3] / "../shared/real/coco_mini"


@pytest.fixture
def data(tmp_path: Path) -> CocoPanopticConfig:
    return CocoPanopticConfig(
        root=write_tiny_coco(tmp_path / "tiny"),
        training_images="images",
        training_annotations="panoptic.json",
        training_maps="maps",
        evaluation_images="images",
        evaluation_annotations="panoptic.json",
        evaluation_maps="maps",
        resolution=scaled_resolution(64),
    )


def with_segments(id_map: Tensor, labels: list[int]) -> Detections:
    empty = torch.zeros(0, dtype=torch.int64)
    segments = Segments(id_map, torch.tensor(labels), torch.ones(len(labels)))
    return Detections(torch.zeros(0), empty, torch.zeros(0, 4), empty, segments=segments)


def annotated(data: CocoPanopticConfig, item: int, *, crowds: bool = False) -> Detections:
    """The annotation of one image as a segmentation, without or with its crowds."""
    dataset = data.evaluation_set()
    file, segments = dataset.file, dataset.file.segments(item)
    kept = [p for p in range(segments.start, segments.stop) if crowds or not file.crowd[p]]
    ids = read_segment_map(dataset.maps / file.map_names[item], "")
    id_map = torch.zeros_like(ids)
    for number, position in enumerate(kept, start=1):
        id_map[ids == int(file.ids[position])] = number
    labels = [dataset.label_map.labels[int(file.category_ids[p])] for p in kept]
    return with_segments(id_map, labels)


def judge(
    data: CocoPanopticConfig, output_dir: Path, found: dict[int, Detections]
) -> dict[str, float]:
    evaluator, dataset = data.evaluator(output_dir), data.evaluation_set()
    results: dict[str, Any] = {}
    for item, detections in found.items():
        results |= evaluator.format(dataset[item], [detections])
    return evaluator.summarize(pickle.loads(pickle.dumps(results))).metrics


def test_the_annotation_scores_one(data: CocoPanopticConfig, tmp_path: Path) -> None:
    metrics = judge(data, tmp_path, {item: annotated(data, item) for item in range(3)})
    for name in ("PQ", "SQ", "RQ", "PQ/things", "PQ/stuff", "PQ/dog", "PQ/sky"):
        assert metrics[name] == pytest.approx(1)
    assert "PQ/cat" not in metrics  # there is only a crowd of cats


def test_quality_by_hand(data: CocoPanopticConfig, tmp_path: Path) -> None:
    """Image 3 is sky, 60 x 40: three quarters are found as sky, one quarter as grass."""
    id_map = torch.ones(SIZES[3], dtype=torch.int64)
    id_map[45:] = 2
    names = data.class_names()
    found = with_segments(id_map, [names.index("sky"), names.index("grass")])
    metrics = judge(data, tmp_path, {1: found})
    assert metrics["PQ/sky"] == pytest.approx(0.75) and metrics["PQ/grass"] == 0
    assert metrics["PQ"] == pytest.approx(0.375)
    assert metrics["SQ"] == pytest.approx(0.375) and metrics["RQ"] == pytest.approx(0.5)


def test_nothing_found_scores_zero(data: CocoPanopticConfig, tmp_path: Path) -> None:
    empty = with_segments(torch.zeros(SIZES[12], dtype=torch.int64), [])
    assert judge(data, tmp_path, {2: empty})["PQ"] == 0


def test_files_are_in_the_official_format(data: CocoPanopticConfig, tmp_path: Path) -> None:
    judge(data, tmp_path, {2: annotated(data, 2)})
    (written,) = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    assert written["image_id"] == 12 and written["file_name"] == "000012.png"
    assert [(s["id"], s["category_id"], s["area"]) for s in written["segments_info"]] == [
        (1, 1000, 72),
        (2, 0, 144),
    ]
    ids = read_segment_map(tmp_path / "panoptic/000012.png", "")
    assert torch.bincount(ids.flatten()).tolist() == [32 * 32 - 72 - 144, 72, 144]


def test_labels_without_a_category_become_void(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "tiny")
    data = CocoPanopticConfig(
        root=root,
        evaluation_images="images",
        evaluation_annotations="panoptic.json",
        evaluation_maps="maps",
        classes=("unknown", "dog", "cat", "kite", "sky", "grass"),
    )
    id_map = torch.tensor([[1, 2] * 20] * 60)
    evaluator = data.evaluator(tmp_path)
    results = evaluator.format(data.evaluation_set()[1], [with_segments(id_map, [0, 4])])
    assert [s["category_id"] for s in results["3"]["segments_info"]] == [200]


def test_segments_must_be_there_at_the_original_size(
    data: CocoPanopticConfig, tmp_path: Path
) -> None:
    batch, evaluator = data.evaluation_set()[0], data.evaluator(tmp_path)
    small = with_segments(torch.zeros(4, 4, dtype=torch.int64), [])
    with pytest.raises(ValueError, match=r"image 7: expected segments of \[40, 60\], got \(4, 4\)"):
        evaluator.format(batch, [small])
    empty = torch.zeros(0, dtype=torch.int64)
    without = Detections(torch.zeros(0), empty, torch.zeros(0, 4), empty)
    with pytest.raises(ValueError, match=r"image 7: expected segments .* got None"):
        evaluator.format(batch, [without])


def test_unknown_images_and_no_images_are_refused(data: CocoPanopticConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"0 images"):
        data.evaluator(tmp_path).summarize({})
    with pytest.raises(ValueError, match=r"1 of them not in .*panoptic\.json: 99"):
        data.evaluator(tmp_path).summarize({"99": {}})


def quality_by_definition(
    file: PanopticFile, maps: Path, found: dict[int, Detections], category_ids: list[int]
) -> dict[int, float]:
    """PQ of each category, Kirillov et al. 2019, written as it reads there."""
    tally = {number: [0.0, 0, 0, 0] for number, _ in file.categories}  # sum of IoU, TP, FP, FN
    for item, detections in found.items():
        assert detections.segments is not None
        truth = read_segment_map(maps / file.map_names[item], "").numpy()
        guess, span = detections.segments.id_map.numpy(), file.segments(item)
        rows = list(zip(file.ids[span], file.category_ids[span], file.crowd[span], strict=True))
        guesses = [category_ids[label] for label in detections.segments.labels.tolist()]
        matched = set()
        for number, category, crowd in rows:
            hit = False
            for index, guessed in enumerate(guesses, start=1):
                mine, theirs = guess == index, truth == number
                both = (mine & theirs).sum()
                union = mine.sum() + theirs.sum() - both - (mine & (truth == 0)).sum()
                if not crowd and guessed == category and both / max(union, 1) > 0.5:
                    tally[category][0] += both / union
                    tally[category][1] += 1
                    matched.add(index)
                    hit = True
            tally[category][3] += not crowd and not hit
        for index, guessed in enumerate(guesses, start=1):
            mine = guess == index
            ignored = truth == 0
            for number, category, crowd in rows:
                ignored |= (truth == number) & bool(crowd and category == guessed)
            if index not in matched and mine.any() and (mine & ignored).sum() / mine.sum() <= 0.5:
                tally[guessed][2] += 1
    return {
        number: total / (tp + fp / 2 + fn / 2)
        for number, (total, tp, fp, fn) in tally.items()
        if tp + fp + fn
    }


def spoiled(data: CocoPanopticConfig, item: int, seed: int) -> Detections:
    """The annotation, shifted, with some labels changed."""
    draw = np.random.default_rng([seed, item])
    found = annotated(data, item, crowds=True)
    assert found.segments is not None
    shift = draw.integers(-4, 5, 2).tolist()
    labels = found.segments.labels.clone()
    wrong = torch.from_numpy(draw.random(len(labels)) < 0.3)
    labels[wrong] = labels.roll(1)[wrong]
    return with_segments(found.segments.id_map.roll(shift, (0, 1)), labels.tolist())


def assert_agrees(data: CocoPanopticConfig, output_dir: Path, seed: int) -> None:
    dataset = data.evaluation_set()
    found = {item: spoiled(data, item, seed) for item in range(len(dataset))}
    metrics = judge(data, output_dir, found)
    ids = [-1 if number is None else number for number in dataset.label_map.category_ids]
    expected = quality_by_definition(dataset.file, dataset.maps, found, ids)
    names = dict(dataset.file.categories)
    assert {f"PQ/{names[number]}": value for number, value in expected.items()} == pytest.approx(
        {n: v for n, v in metrics.items() if n.startswith("PQ/") and n[3:] in names.values()}
    )
    assert metrics["PQ"] == pytest.approx(float(np.mean(list(expected.values()))))


@pytest.mark.parametrize("seed", range(4))
def test_quality_agrees_with_its_definition(
    data: CocoPanopticConfig, tmp_path: Path, seed: int
) -> None:
    assert_agrees(data, tmp_path, seed)


@pytest.mark.real
def test_quality_of_real_images_agrees_with_its_definition(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("no real COCO images in ../shared/real/coco_mini")
    data = CocoPanopticConfig(
        root=REAL, classes=DETR_PANOPTIC_CLASSES, resolution=scaled_resolution(64)
    )
    assert_agrees(data, tmp_path, 0)
    perfect = {item: annotated(data, item) for item in range(2)}
    metrics = judge(data, tmp_path, perfect)
    assert (metrics["PQ"], metrics["PQ/things"], metrics["PQ/stuff"]) == (1, 1, 1)
