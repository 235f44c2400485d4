"""COCO panoptic files as data: every segment an object with a mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detr2d.data.coco_classes import DETR_PANOPTIC_CLASSES
from detr2d.data.panoptic import CocoPanopticConfig
from detr2d.data.panoptic_files import boxes_of_masks, encode_segment_map, read_segment_map
from detr2d.data.transforms import Resolution, scaled_resolution
from tests.helpers.tiny_coco import draw_ids, panoptic

NATIVE = Resolution(shortest=40, longest=10000)  # leaves a 40 pixel high image as it is


def config(root: Path, **settings: Any) -> CocoPanopticConfig:
    return CocoPanopticConfig(
        root=root,
        training_images="images",
        training_annotations="panoptic.json",
        training_maps="maps",
        evaluation_images="images",
        evaluation_maps="maps",
        **{"resolution": NATIVE, "evaluation_annotations": "panoptic.json", **settings},
    )


def test_segments_become_labels_masks_and_boxes(tiny_coco: Path) -> None:
    data = config(tiny_coco)
    assert data.class_names() == ("dog", "cat", "kite", "grass", "sky")
    batch = data.evaluation_set()[0]
    assert batch.targets is not None
    targets, ids = batch.targets[0], torch.from_numpy(draw_ids(7))
    assert targets.labels.tolist() == [4, 3, 0]  # the crowd of cats is left out
    expected = torch.stack([ids == 70000, ids == 300, ids == 5])
    assert targets.masks is not None and torch.equal(targets.masks, expected)
    torch.testing.assert_close(targets.boxes[0], torch.tensor([0.5, 0.25, 1, 0.5]))
    torch.testing.assert_close(targets.boxes[2], torch.tensor([20 / 60, 0.5, 20 / 60, 30 / 40]))


def test_training_samples_change_with_the_epoch(tiny_coco: Path) -> None:
    dataset = config(tiny_coco, resolution=scaled_resolution(64)).training_set(3)
    shapes = set()
    for epoch in range(6):
        dataset.set_epoch(epoch)
        batch = dataset[0]
        assert batch.targets is not None and batch.targets[0].masks is not None
        assert batch.targets[0].masks.shape[1:] == batch.images.shape[-2:]
        shapes.add(tuple(batch.images.shape))
    assert len(shapes) > 1


def test_segment_maps_survive_the_file(tmp_path: Path) -> None:
    ids = torch.tensor([[0, 1, 255], [256, 70000, 2**24 - 1]])
    (tmp_path / "map.png").write_bytes(encode_segment_map(ids))
    assert torch.equal(read_segment_map(tmp_path / "map.png", ""), ids)


def test_boxes_hold_just_the_pixels() -> None:
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 2, 3] = True
    masks[1, 1:4, 0:2] = masks[1, 5, 7] = True
    assert boxes_of_masks(masks).tolist() == [[3, 2, 4, 3], [0, 1, 8, 6], [0, 0, 0, 0]]
    assert boxes_of_masks(masks[:0]).shape == (0, 4)


def first(content: dict[str, Any]) -> dict[str, Any]:
    return content["annotations"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: first(c).update(image_id=99), r"annotation of image 99"),
        (lambda c: first(c).pop("file_name"), r"image 7: file_name of the segment map"),
        (lambda c: first(c).pop("segments_info"), r"image 7: segments_info is missing"),
        (lambda c: first(c)["segments_info"][0].pop("area"), r"image 7: a segment needs"),
        (lambda c: first(c)["segments_info"][0].update(category_id=9), r"category_id 9 is not"),
        (lambda c: first(c)["segments_info"][0].update(id=8), r"segments \[8\] have no pixel"),
        (lambda c: first(c).update(file_name="000003.png"), r"map .*000003\.png is \(60, 40\)"),
        (lambda c: first(c).update(file_name="no.png"), r"no\.png is missing"),
    ],
)
def test_wrong_files_are_refused_by_name(
    tiny_coco: Path, tmp_path: Path, change: Any, message: str
) -> None:
    content = panoptic()
    change(content)
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(content))
    with pytest.raises((ValueError, FileNotFoundError), match=r"wrong\.json.*" + message):
        config(tiny_coco, evaluation_annotations=str(path)).evaluation_set()[0]


@pytest.mark.real
def test_real_panoptic_images_become_samples() -> None:
    root = Path(__file__).resolve().parents[3] / "../shared/real/coco_mini"
    if not root.is_dir():
        pytest.skip("no real COCO images in ../shared/real/coco_mini")
    data = CocoPanopticConfig(root=root, classes=DETR_PANOPTIC_CLASSES)
    dataset = data.evaluation_set()
    batch = data.collate([dataset[0], dataset[1]])
    assert batch.images.shape == (2, 3, 800, 1333)
    assert batch.targets is not None
    assert [len(targets) for targets in batch.targets] == [17, 30]
    # A rugby player's box as COCO annotates it: 282, 207, 48, 149 in 427 x 640 pixels.
    expected = torch.tensor([(282 + 24) / 640, (207 + 74.5) / 427, 48 / 640, 149 / 427])
    torch.testing.assert_close(batch.targets[0].boxes[0], expected)
