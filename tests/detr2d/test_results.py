from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detr2d.data.coco import CocoConfig
from detr2d.data.panoptic import CocoPanopticConfig
from detr2d.prediction import write_pictures
from detr2d.results import read_results
from tests.helpers.fixed_boxes import write_fixed_boxes
from tests.helpers.tiny_coco import write_tiny_coco

BOX = {"image_id": 7, "category_id": 45, "score": 0.5, "bbox": [30, 10, 15, 20]}


@pytest.fixture
def data(tmp_path: Path) -> CocoConfig:
    experiment, _ = write_fixed_boxes(write_tiny_coco(tmp_path / "tiny"), tmp_path / "run")
    found = experiment.data
    assert isinstance(found, CocoConfig)
    return found


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_boxes_come_back_normalised_best_first_and_above_the_score(
    data: CocoConfig, tmp_path: Path
) -> None:
    worse = {**BOX, "score": 0.4, "category_id": 0}
    path = write(tmp_path / "r.json", [worse, BOX, {**BOX, "score": 0.1}, {**BOX, "image_id": 3}])
    dataset = data.evaluation_set()
    (found,) = read_results(path, dataset.label_map)(dataset[0], 0.3)
    assert found.scores.tolist() == pytest.approx([0.5, 0.4])
    assert found.labels.tolist() == [1, 0]  # cat, dog: by category id 0, 45, 1000
    torch.testing.assert_close(found.boxes[0], torch.tensor([37.5 / 60, 0.5, 0.25, 0.5]))


def test_an_image_without_results_has_no_detections(data: CocoConfig, tmp_path: Path) -> None:
    dataset = data.evaluation_set()
    find = read_results(write(tmp_path / "r.json", []), dataset.label_map)
    assert len(find(dataset[0], 0.0)[0]) == 0


def test_masks_come_back_with_their_boxes(data: CocoConfig, tmp_path: Path) -> None:
    masks = replace(data, masks=True)
    dataset = masks.evaluation_set()
    runs = json.loads((data.root / "instances.json").read_text())["annotations"][3]["segmentation"]
    result = {"image_id": 12, "category_id": 1000, "score": 0.9, "segmentation": runs}
    path = write(tmp_path / "r.json", [result])
    (found,) = read_results(path, dataset.label_map)(dataset[2], 0.5)
    assert found.masks is not None and found.masks.shape == (1, 32, 32)
    assert int(found.masks.sum()) == 9 * 8
    torch.testing.assert_close(found.boxes[0] * 32, torch.tensor([6.5, 7.0, 9.0, 8.0]))


def test_a_panoptic_file_comes_back_as_segments(data: CocoConfig) -> None:
    root = data.root
    (root / "maps").rename(root / "panoptic")
    settings = CocoPanopticConfig(
        root=root,
        evaluation_images="images",
        evaluation_annotations="panoptic.json",
        evaluation_maps="panoptic",
        training_annotations="panoptic.json",
        resolution=data.resolution,
    )
    dataset = settings.evaluation_set()
    (found,) = read_results(root / "panoptic.json", dataset.label_map)(dataset[0], 0.5)
    assert found.segments is not None and found.segments.id_map.shape == (40, 60)
    names = [settings.class_names()[label] for label in found.segments.labels.tolist()]
    assert names == ["sky", "grass", "dog", "cat"]
    assert names[int(found.segments.id_map[10, 12]) - 1] == "dog"
    pictures = write_pictures(
        settings,
        [0],
        root / "out",
        detector=read_results(root / "panoptic.json", dataset.label_map),
    )
    assert pictures[0].is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"results": {}}, r"r\.json: expected COCO results"),
        ([{"image_id": 7}], r"r\.json: a result lacks \['category_id', 'score'\]"),
        ([{"image_id": 7, "category_id": 0, "score": 1}], "lacks bbox or segmentation"),
        ([{**BOX, "category_id": 8}], r"r\.json: category 8 is not in the annotation file"),
        ([5], r"r\.json: a result must be an object, got 5"),
        ([{**BOX, "score": "x"}], r"r\.json: category_id must be an integer, score a number"),
        ([{**BOX, "bbox": [1, 2]}], r"r\.json: category_id must be .* and bbox four"),
        ({"annotations": [{"image_id": 7}]}, r"r\.json: an annotation needs image_id"),
    ],
)
def test_other_files_are_named(
    data: CocoConfig, tmp_path: Path, content: object, message: str
) -> None:
    dataset = data.evaluation_set()
    with pytest.raises(ValueError, match=message):
        read_results(write(tmp_path / "r.json", content), dataset.label_map)(dataset[0], 0.0)


def test_a_file_that_is_no_json_is_named(data: CocoConfig, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON file"):
        read_results(tmp_path / "r.json", data.evaluation_set().label_map)
