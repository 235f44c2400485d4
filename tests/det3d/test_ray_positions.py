from __future__ import annotations

import torch

from det3d.geometry import Region
from det3d.ray_positions import (
    Depths,
    RayPositions,
    RigSine,
    ViewSine,
    cell_corners,
    frustum_points,
    lonely_tokens_seen,
    token_padding,
)
from tests.helpers.rigs import ring_rig

CANVAS, SIZE = (64, 112), (4, 7)


def test_increasing_depths_grow_by_equal_increments() -> None:
    depths = Depths(count=64, near=1.0, far=61.2).values()
    steps = depths.diff()
    torch.testing.assert_close(steps.diff(), torch.full((62,), float(steps.diff()[0])).double())
    assert depths[0] == 1.0 and 59.3 < float(depths[-1]) < 59.4


def test_equal_depths_never_reach_the_far_end() -> None:
    depths = Depths(steps="equal", count=4, near=1.0, far=9.0).values()
    assert depths.tolist() == [1.0, 3.0, 5.0, 7.0]


def test_points_project_back_to_the_corners_of_their_cells() -> None:
    rig, depths = ring_rig(3, CANVAS), Depths(count=5).values()
    points = frustum_points(rig, CANVAS, SIZE, depths)  # (1, 3, 4, 7, 5, 3)
    for camera in range(3):
        seen = rig.project(points[:, camera].flatten(1, 3))
        pixels = seen.pixels[0, camera].unflatten(0, (*SIZE, 5))
        corners = cell_corners(CANVAS, SIZE, rig.intrinsics).unflatten(0, SIZE)
        torch.testing.assert_close(
            pixels, corners.unsqueeze(2).expand_as(pixels), atol=1e-3, rtol=1e-4
        )
        depth = seen.depth[0, camera].unflatten(0, (*SIZE, 5))
        torch.testing.assert_close(depth, depths.float().expand_as(depth), atol=1e-3, rtol=1e-4)


def test_ray_embeddings_follow_the_cameras_when_they_change_places() -> None:
    rig = ring_rig(4, CANVAS)
    rays = RayPositions(Region(), Depths(count=4), 8)
    order = [2, 0, 3, 1]
    moved = rays(rig.select(order), CANVAS, SIZE)
    torch.testing.assert_close(moved, rays(rig, CANVAS, SIZE)[:, order])


def test_only_rig_sines_know_the_number_of_a_camera() -> None:
    padding = torch.zeros(1, 3, *SIZE, dtype=torch.bool)
    by_rig, by_view = RigSine(8).sines(padding), ViewSine(8).sines(padding)
    assert torch.equal(by_view[:, 0], by_view[:, 2])
    assert torch.equal(by_rig[..., 4:][:, 0], by_rig[..., 4:][:, 2])
    assert not torch.equal(by_rig[..., :4][:, 0], by_rig[..., :4][:, 2])


def test_padded_cells_and_absent_cameras_are_not_counted() -> None:
    rig = ring_rig(3, (48, 112))
    rig.present[0, 1] = False
    padding = token_padding(rig, CANVAS, SIZE)
    assert padding[0, 1].all() and padding[0, 0, 3].all() and not padding[0, 0, :3].any()
    sines = RigSine(8).sines(padding)
    two = RigSine(8).sines(padding[:, [0, 2]])
    torch.testing.assert_close(sines[:, [0, 2]], two)


def test_attention_is_never_left_without_tokens() -> None:
    padding = torch.tensor([[True, True], [True, False]])
    assert lonely_tokens_seen(padding).tolist() == [[False, False], [True, False]]
