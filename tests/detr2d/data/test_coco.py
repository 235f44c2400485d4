"""COCO files as training and evaluation data, tiny and real."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detr2d.data.coco import CocoConfig
from detr2d.data.coco_classes import COCO_CLASSES, DETR_CLASSES
from detr2d.data.coco_files import LabelMap, map_labels, read_coco
from detr2d.data.transforms import scaled_resolution
from tests.helpers.tiny_coco import instances

Change = Callable[[dict[str, Any]], Any]


def config(root: Path, **settings: Any) -> CocoConfig:
    usual: dict[str, Any] = {
        "training_images": "images",
        "training_annotations": "instances.json",
        "evaluation_images": "images",
        "evaluation_annotations": "instances.json",
        "resolution": scaled_resolution(64),
    }
    return CocoConfig(root=root, **{**usual, **settings})


def test_labels_follow_the_category_ids(tiny_coco: Path) -> None:
    data = config(tiny_coco)
    assert data.class_names() == ("dog", "cat", "kite")
    batch = data.evaluation_set()[0]
    assert batch.targets is not None and batch.targets[0].labels.tolist() == [0, 1]
    assert batch.tokens == ("7",)


def test_given_classes_set_the_labels_by_name(tiny_coco: Path) -> None:
    data = config(tiny_coco, classes=("bird", "kite", "cat", "dog"))
    labels = [t.labels.tolist() for b in data.evaluation_set() for t in b.targets or ()]
    assert labels == [[3, 2], [], [1, 3]]


def test_boxes_are_normalised_and_crowds_left_out(tiny_coco: Path) -> None:
    batch = config(tiny_coco).evaluation_set()[0]
    assert batch.targets is not None
    expected = [[20 / 60, 20 / 40, 20 / 60, 30 / 40], [41 / 60, 16 / 40, 12 / 60, 16 / 40]]
    torch.testing.assert_close(batch.targets[0].boxes, torch.tensor(expected))
    assert batch.image_sizes.tolist() == [[64, 96]] and batch.original_sizes.tolist() == [[40, 60]]


def test_polygons_and_run_lengths_become_masks(tiny_coco: Path) -> None:
    file = read_coco(tiny_coco / "instances.json")
    crowd = file.masks(0, [2])[0]
    assert bool(crowd[:4].all()) and not bool(crowd[4:].any())
    dog, cat = file.masks(0, [0, 1])
    assert int(dog.sum()) == 600 and bool(dog[5:35, 10:30].all())
    assert int(cat.sum()) == 12 * 16
    assert int(file.masks(2, [3]).sum()) == 9 * 8
    assert file.masks(1, []).shape == (0, 60, 40)


def test_masks_are_read_on_request(tiny_coco: Path) -> None:
    batch = config(tiny_coco, masks=True).evaluation_set()[0]
    assert batch.targets is not None and batch.targets[0].masks is not None
    assert batch.targets[0].masks.shape == (2, 64, 96)
    without = config(tiny_coco).evaluation_set()[0]
    assert without.targets is not None and without.targets[0].masks is None


@pytest.mark.parametrize(("skip", "tokens"), [(False, ["7", "3", "12"]), (True, ["7", "12"])])
def test_images_without_objects_stay_unless_asked(
    tiny_coco: Path, skip: bool, tokens: list[str]
) -> None:
    data = config(tiny_coco, skip_empty=skip)
    assert [batch.tokens[0] for batch in data.training_set(0)] == tokens
    assert len(data.evaluation_set()) == 3


def test_training_depends_on_seed_epoch_and_item_only(tiny_coco: Path) -> None:
    def epoch(number: int, seed: int = 5) -> list[torch.Tensor]:
        dataset = config(tiny_coco).training_set(seed)
        dataset.set_epoch(number)
        return [dataset[item].images for item in (2, 0)]

    first, again, later, other = epoch(1), epoch(1), epoch(2), epoch(1, seed=6)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, later))
    assert not all(map(torch.equal, first, other))


def test_collate_pads_to_the_largest_image(tiny_coco: Path) -> None:
    data = config(tiny_coco)
    batch = data.collate([data.evaluation_set()[item] for item in range(3)])
    assert batch.images.shape == (3, 3, 96, 96) and batch.images.dtype == torch.uint8
    assert batch.image_sizes.tolist() == [[64, 96], [96, 64], [64, 64]]
    assert batch.tokens == ("7", "3", "12")


def test_boxes_outside_or_without_area_are_no_targets(tiny_coco: Path, tmp_path: Path) -> None:
    content = instances()
    content["annotations"][0]["bbox"] = [10, 5, 0, 30]
    content["annotations"][1]["bbox"] = [50, -4, 40, 14]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    data = config(tiny_coco, evaluation_annotations=str(path))
    targets = data.evaluation_set()[0].targets
    assert targets is not None and targets[0].labels.tolist() == [1]
    torch.testing.assert_close(
        targets[0].boxes, torch.tensor([[55 / 60, 5 / 40, 10 / 60, 10 / 40]])
    )


def set_annotation(**values: Any) -> Change:
    return lambda content: content["annotations"][1].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_annotation(bbox=[1, 2, 3]), r"annotation 9: bbox must be .* got \[1, 2, 3\]"),
        (set_annotation(bbox=[1, 2, -3, 4]), r"annotation 9: bbox must be"),
        (set_annotation(bbox=[1, 2, float("nan"), 4]), r"annotation 9: bbox must be"),
        (set_annotation(bbox=[1, 2, "3", 4]), r"annotation 9: bbox must be"),
        (set_annotation(bbox=None), r"annotation 9: bbox must be"),
        (set_annotation(area="9"), r"annotation 9: area must be a number, got '9'"),
        (set_annotation(category_id=77), r"annotation 9: category_id 77 is not among"),
        (set_annotation(image_id=8), r"annotation 9: image_id 8 is not among"),
        (set_annotation(id="nine"), r"annotation nine: id must be an integer, got 'nine'"),
        (lambda c: c["images"].append(c["images"][0]), r"image id 7 appears twice"),
        (lambda c: c["images"][0].pop("height"), r"image 7: height must be an integer"),
        (lambda c: c["images"][0].pop("file_name"), r"image 7 needs a file_name"),
        (lambda c: c["categories"].append({"id": 0}), r"category ids must be unique"),
        (lambda c: c.pop("annotations"), r"expected a list under annotations"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_by_name(change: Change, message: str, tmp_path: Path) -> None:
    content = instances()
    change(content)
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"wrong\.json.*" + message):
        read_coco(path)


@pytest.mark.parametrize(
    "segmentation",
    [[], [[1, 2, 3, 4]], None, "x", {"size": [40, 60]}, {"size": [9, 9], "counts": [81]},
     {"size": [40, 60], "counts": [7]}],
)  # fmt: skip
def test_wrong_masks_are_refused_by_name(segmentation: Any, tmp_path: Path) -> None:
    content = instances()
    content["annotations"][1]["segmentation"] = segmentation
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"wrong\.json: annotation 9: segmentation must be"):
        read_coco(path).masks(0, [1])


def test_missing_files_are_named(tiny_coco: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"annotation file .*none\.json is missing"):
        config(tiny_coco, evaluation_annotations="none.json").evaluation_set()
    with pytest.raises(FileNotFoundError, match=r"instances\.json: image 7: .*000007\.png is miss"):
        config(tiny_coco, evaluation_images="nowhere").evaluation_set()[0]
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(ValueError, match=r"text\.json is no JSON file"):
        read_coco(tmp_path / "text.json")


def test_an_image_of_another_size_is_named(tiny_coco: Path, tmp_path: Path) -> None:
    content = instances()
    content["images"][0]["height"] = 41
    path = tmp_path / "size.json"
    path.write_text(json.dumps(content))
    data = config(tiny_coco, evaluation_annotations=str(path))
    with pytest.raises(ValueError, match=r"image 7: .*000007\.png is 40 x 60 .* say 41 x 60"):
        data.evaluation_set()[0]


def test_a_used_category_must_be_among_the_classes(tiny_coco: Path) -> None:
    with pytest.raises(
        ValueError, match=r"category 45 \(cat\) is none of the 3 .* nearest is cats"
    ):
        config(tiny_coco, classes=("dog", "kite", "cats")).evaluation_set()


def test_label_map_goes_both_ways() -> None:
    found = map_labels(Path("x.json"), [(0, "a"), (90, "b"), (5, "c")], {0, 90}, ("b", "-", "a"))
    assert found == LabelMap((90, None, 0))
    assert found.labels == {90: 0, 0: 2}


def test_categories_of_one_name_are_told_apart(tmp_path: Path) -> None:
    content = instances()
    content["categories"][1]["name"] = "kite"
    path = tmp_path / "twins.json"
    path.write_text(json.dumps(content))
    assert config(tmp_path, training_annotations="twins.json").class_names() == (
        "kite (0)",
        "cat",
        "kite (1000)",
    )


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(instances()))
    before = len(read_coco(path).ids)
    content = instances()
    content["annotations"] = content["annotations"][:2]
    path.write_text(json.dumps(content))
    os.utime(path, ns=(1, 1))
    assert (before, len(read_coco(path).ids)) == (5, 2)


def test_released_detr_labels_are_category_ids() -> None:
    assert len(DETR_CLASSES) == 91 and DETR_CLASSES[1] == "person"
    assert DETR_CLASSES[90] == "toothbrush" and DETR_CLASSES[12].startswith("unused")
    assert len(COCO_CLASSES) == 80 and set(COCO_CLASSES) < set(DETR_CLASSES)


@pytest.fixture(scope="module")
def coco_mini() -> CocoConfig:
    root = Path(__file__).resolve().parents[3] / "../shared/real/coco_mini"
    if not root.is_dir():
        pytest.skip("no real COCO images in ../shared/real/coco_mini")
    return CocoConfig(
        root=root,
        training_images="val2017",
        training_annotations="annotations/instances_val2017.json",
        classes=DETR_CLASSES,
        resolution=scaled_resolution(160),
        masks=True,
    )


@pytest.mark.real
def test_every_real_image_becomes_a_training_and_an_evaluation_sample(
    coco_mini: CocoConfig,
) -> None:
    training, evaluation = coco_mini.training_set(0), coco_mini.evaluation_set()
    assert len(training) == len(evaluation) == 68
    found = [evaluation[item] for item in range(68)]
    batches = found + [training[item] for item in range(68)]
    for batch in batches:
        assert batch.images.dtype == torch.uint8 and batch.targets is not None
        targets = batch.targets[0]
        assert targets.masks is not None
        assert targets.masks.shape == (len(targets), *batch.images.shape[-2:])
        corners = targets.boxes[:, :2] - targets.boxes[:, 2:] / 2
        assert bool((targets.boxes[:, 2:] > 0).all() and (corners > -1e-6).all())
    counts = [len(batch.targets[0]) for batch in found if batch.targets is not None]
    assert sum(counts) == 745 and counts.count(0) == 2  # 760 annotations, 15 of them crowds


@pytest.mark.real
def test_real_labels_are_the_category_ids_in_the_released_convention(
    coco_mini: CocoConfig,
) -> None:
    file = read_coco(coco_mini.root / coco_mini.evaluation_annotations)
    dataset = coco_mini.evaluation_set()
    assert dataset.label_map.labels == {number: number for number, _ in file.categories}
    contiguous = replace(coco_mini, classes=())
    assert contiguous.class_names() == COCO_CLASSES
    assert max(contiguous.evaluation_set().label_map.labels.values()) == 79
