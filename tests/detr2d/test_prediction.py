"""A detector on image files and on a data set: JSON and pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from detr2d.config import DataConfig, Experiment
from detr2d.inference import evaluate
from detr2d.prediction import (
    describe,
    image_resolution,
    load_detector,
    predict_files,
    unique_names,
    write_pictures,
)
from detr2d.structures import Detections, Segments
from tests.helpers.fixed_boxes import write_fixed_boxes
from tests.helpers.tiny_coco import write_tiny_coco


@pytest.fixture
def fixed(tmp_path: Path) -> tuple[Experiment, Path]:
    return write_fixed_boxes(write_tiny_coco(tmp_path / "tiny"), tmp_path / "run")


def test_files_become_json_and_pictures(fixed: tuple[Experiment, Path], tmp_path: Path) -> None:
    Image.new("L", (80, 40), 90).save(tmp_path / "street.jpg")
    detector = load_detector(*fixed)
    images = [tmp_path / "street.jpg", tmp_path / "tiny/images/000007.png"]
    written = predict_files(detector, images, tmp_path / "out", score=0.5)
    assert [path.name for path in written] == ["predictions.json", "street.png", "000007.png"]
    first, second = json.loads(written[0].read_text())
    assert first["image"] == str(images[0]) and (first["height"], first["width"]) == (40, 80)
    assert first["objects"] == [
        {"class": "cat", "score": pytest.approx(0.9), "bbox": [0, 0, 40, 40]}
    ]
    assert second["objects"][0]["bbox"] == [0, 0, 30, 40]
    assert Image.open(written[1]).size == (80, 40)


def test_a_low_score_lets_more_through(fixed: tuple[Experiment, Path], tmp_path: Path) -> None:
    image = tmp_path / "tiny/images/000003.png"
    written = predict_files(load_detector(*fixed), [image], tmp_path / "out", score=0.1)
    (result,) = json.loads(written[0].read_text())
    assert [found["class"] for found in result["objects"]] == ["cat", "dog"]


def test_missing_images_are_named_before_anything_is_written(
    fixed: tuple[Experiment, Path], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jpg is missing"):
        predict_files(load_detector(*fixed), [tmp_path / "none.jpg"], tmp_path / "out", score=0.5)
    assert not (tmp_path / "out").exists()


def test_masks_and_segments_are_described() -> None:
    found = Detections(
        scores=torch.tensor([0.5]),
        labels=torch.tensor([0]),
        boxes=torch.tensor([[0.5, 0.5, 1, 1]]),
        queries=torch.tensor([0]),
        masks=torch.ones(1, 4, 6, dtype=torch.bool),
        segments=Segments(torch.ones(4, 6).long(), torch.tensor([1]), torch.tensor([0.75])),
    )
    result = describe("a.png", torch.zeros(3, 4, 6, dtype=torch.uint8), found, ("cat", "sky"))
    assert result["objects"][0]["segmentation"]["size"] == [4, 6]
    assert result["segments"] == [{"id": 1, "class": "sky", "score": 0.75}]
    json.dumps(result)


def test_names_of_pictures_do_not_collide() -> None:
    paths = [Path("a/x.jpg"), Path("b/x.png"), Path("y.jpg")]
    assert list(unique_names(paths)) == ["x", "x_2", "y"]


def test_data_set_pictures_show_annotations_beside_detections(
    fixed: tuple[Experiment, Path], tmp_path: Path
) -> None:
    experiment = fixed[0]
    data = replace(experiment.data, masks=True)
    alone = write_pictures(data, [0, 1], tmp_path / "alone")
    both = write_pictures(data, [0, 1], tmp_path / "both", detector=load_detector(*fixed))
    assert [path.name for path in alone] == ["7.png", "3.png"]
    assert Image.open(alone[0]).size == (60, 40)
    assert Image.open(both[0]).size == (60, 88)  # a wide image: one above the other
    assert Image.open(both[1]).size == (88, 60)


def test_other_data_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a config whose data is a CocoConfig"):
        image_resolution(DataConfig())


def test_the_evaluation_engine_judges_a_2d_system(
    fixed: tuple[Experiment, Path], tmp_path: Path
) -> None:
    experiment, checkpoint = fixed
    experiment = replace(experiment, train=replace(experiment.train, workers=0, batch_size=2))
    report = evaluate(experiment, checkpoint, tmp_path / "evaluation")
    # One of two dogs is met with an IoU of 6/11, and two dogs of the same score are wrong.
    assert report.metrics["AP/dog"] == pytest.approx(51 / 101 / 3 / 10)
    assert len(json.loads((tmp_path / "evaluation/results_bbox.json").read_text())) == 6
