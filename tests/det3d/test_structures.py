from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from det3d.cameras import absent_cameras
from det3d.structures import SceneBatch, concatenate_scenes
from detr2d.structures import Targets


def scene(num_cameras: int, height: int, width: int, num_objects: int, token: str) -> SceneBatch:
    rig = absent_cameras(1, num_cameras)
    rig = replace(rig, present=torch.ones(1, num_cameras, dtype=torch.bool))
    images = torch.full((1, num_cameras, 3, height, width), 7, dtype=torch.uint8)
    targets = Targets(torch.zeros(num_objects, dtype=torch.long), torch.rand(num_objects, 9))
    return SceneBatch(images, rig, (token,), (targets,))


def test_scenes_of_unequal_rigs_and_sizes_join_padded() -> None:
    first, second = scene(2, 4, 6, 3, "a"), scene(3, 5, 2, 0, "b")
    batch = concatenate_scenes([first, second])
    assert batch.images.shape == (2, 3, 3, 5, 6)
    assert batch.images.dtype == torch.uint8
    assert batch.tokens == ("a", "b")
    assert batch.targets is not None
    assert [len(targets) for targets in batch.targets] == [3, 0]
    assert batch.rig.present.tolist() == [[True, True, False], [True, True, True]]
    assert torch.equal(batch.images[0, :2, :, :4, :6], first.images[0])
    assert int(batch.images[0, 2].sum()) == 0
    assert len(batch) == 2


def test_scenes_without_targets_join() -> None:
    batch = concatenate_scenes([replace(scene(1, 2, 2, 0, t), targets=None) for t in "ab"])
    assert batch.targets is None


def test_scenes_with_and_without_targets_are_refused() -> None:
    first = scene(1, 2, 2, 1, "a")
    with pytest.raises(ValueError, match="with targets and scenes without"):
        concatenate_scenes([first, replace(first, targets=None)])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": torch.zeros(1, 3, 3, 4, 4)}, "images must have shape"),
        ({"tokens": ("a", "b")}, "1 scenes need as many tokens, got 2"),
        ({"targets": ()}, "1 scenes need as many targets, got 0"),
    ],
)
def test_a_batch_whose_parts_disagree_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(scene(2, 4, 4, 1, "a"), **change)


def test_moving_a_batch_moves_rig_and_targets() -> None:
    moved = scene(2, 4, 4, 1, "a").to("meta")
    assert moved.rig.intrinsics.device.type == "meta"
    assert moved.targets is not None
    assert moved.targets[0].boxes.device.type == "meta"
