from __future__ import annotations

from dataclasses import replace

import torch

from det3d.data.appearance import GridMask, PhotometricDistortion, grid_of_squares
from tests.helpers.rigs import random_scene


def test_hidden_squares_lie_between_kept_stripes() -> None:
    keep = grid_of_squares(20, 40, period=6, start=(2, 0), kept=0.5)
    rows, columns = keep.all(1), keep.all(0)
    assert torch.equal(keep, rows.unsqueeze(1) | columns)
    assert 8 <= int(rows.sum()) <= 12 and 18 <= int(columns.sum()) <= 22


def test_grid_mask_hides_the_same_squares_in_all_cameras_and_nothing_else() -> None:
    scene = random_scene()
    masked = GridMask(probability=1.0)(scene, torch.Generator().manual_seed(3))
    changed = (masked.images != scene.images).any(2)
    fill = torch.tensor([124, 116, 104], dtype=torch.uint8).view(3, 1, 1)
    hidden = (masked.images == fill).all(2)
    assert hidden.any() and bool((changed <= hidden).all())
    assert torch.equal(hidden[0, 0] & hidden[0, 1], hidden[0, 0] | hidden[0, 1])
    assert masked.rig is scene.rig and masked.targets is scene.targets


def test_grid_mask_leaves_most_or_no_scene_alone() -> None:
    scene, generator = random_scene(), torch.Generator().manual_seed(0)
    changes = [GridMask(0.7)(scene, generator) is not scene for _ in range(100)]
    assert 55 < sum(changes) < 85
    assert GridMask(0.0)(scene, generator) is scene


def test_padding_stays_black() -> None:
    scene = random_scene()
    rig = replace(scene.rig, image_sizes=scene.rig.image_sizes - 16)
    images = scene.images.clone()
    images[..., -16:, :] = 0
    images[..., -16:] = 0
    masked = GridMask(1.0)(replace(scene, images=images, rig=rig), torch.Generator().manual_seed(3))
    assert masked.images[..., -16:, :].eq(0).all() and masked.images[..., -16:].eq(0).all()


def test_distortion_changes_each_image_by_itself_and_repeats_with_the_generator() -> None:
    scene = random_scene()
    same = replace(scene, images=scene.images[:, :1].expand(-1, 6, -1, -1, -1))
    changed = PhotometricDistortion()(same, torch.Generator().manual_seed(1))
    assert changed.images.dtype == torch.uint8 and changed.images.shape == same.images.shape
    assert not torch.equal(changed.images[0, 0], changed.images[0, 1])
    again = PhotometricDistortion()(same, torch.Generator().manual_seed(1))
    assert torch.equal(changed.images, again.images)


def test_distortion_of_no_strength_only_swaps_channels() -> None:
    scene = random_scene(1)
    still = PhotometricDistortion(brightness=0, contrast=(1, 1), saturation=(1, 1), hue=0)
    changed = still(scene, torch.Generator().manual_seed(2)).images.flatten(2, 4).sort(-1).values
    before = scene.images.flatten(2, 4).sort(-1).values
    assert (changed.int() - before.int()).abs().max() <= 1
