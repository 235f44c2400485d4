from __future__ import annotations

import math

import torch

from det3d.view_rays import RayEmbedding, cell_centres, headings, turn, unturn, view_rays
from tests.helpers.rigs import ring_rig

CANVAS, LIKE = (64, 112), torch.empty(8, 14)


def test_cells_cover_the_canvas_row_by_row() -> None:
    cells = cell_centres(CANVAS, LIKE)
    assert cells.shape == (8 * 14, 2)
    assert cells[0].tolist() == [4, 4] and cells[1].tolist() == [12, 4]
    assert cells[-1].tolist() == [108, 60]


def test_a_ray_times_the_depth_leads_from_the_camera_to_the_point() -> None:
    rig, pixels = ring_rig(), cell_centres(CANVAS, LIKE)
    depth = torch.full((1, 6, len(pixels)), 7.0)
    lifted = rig.unproject(pixels.expand(1, 6, -1, 2), depth)
    origin = rig.unproject(pixels.expand(1, 6, -1, 2), 0 * depth)
    torch.testing.assert_close(origin + 7 * view_rays(rig, pixels), lifted, atol=1e-4, rtol=1e-5)


def test_headings_are_unit_vectors_over_the_ground_and_vertical_rays_head_along_x() -> None:
    rays = torch.tensor([[3.0, 4.0, 9.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(headings(rays), torch.tensor([[0.6, 0.8], [1.0, 0.0]]))


def test_turning_a_quarter_and_back() -> None:
    north = torch.tensor([0.0, 1.0])
    turned = turn(torch.tensor([2.0, 1.0]), north)  # 2 along and 1 to the left of north
    torch.testing.assert_close(turned, torch.tensor([-1.0, 2.0]))
    torch.testing.assert_close(unturn(turned, north), torch.tensor([2.0, 1.0]))


def test_the_embedding_does_not_know_the_compass() -> None:
    embedding, features = RayEmbedding(8), torch.zeros(6, 8, 8, 14)
    embedded = embedding(features, ring_rig(), CANVAS)
    torch.testing.assert_close(embedded, embedded[:1].expand(6, -1, -1, -1), atol=1e-5, rtol=1e-4)
    assert (embedded[0, :, 0] - embedded[0, :, -1]).abs().max() > 1e-2  # but it knows the slope


def test_the_embedding_stays_finite_where_a_camera_looks_straight_down() -> None:
    rig = ring_rig()
    down = rig.moved(torch.tensor([[0.0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]))
    embedded = RayEmbedding(8)(torch.zeros(6, 8, 8, 14), down, CANVAS)
    assert math.isfinite(float(embedded.abs().max().detach()))
