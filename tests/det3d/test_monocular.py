from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from det3d.cameras import CameraRig
from det3d.geometry import Region
from det3d.monocular import MonocularBranch, MonocularLoss, MonocularMaps, paint_objects
from detr2d.structures import Targets
from tests.helpers.rigs import random_boxes, ring_rig

CANVAS, SIZE = (64, 112), (16, 28)


def one_object(x: float, label: int = 2) -> Targets:
    """A car-sized box on the axis of the ring rig's first camera."""
    return Targets(torch.tensor([label]), torch.tensor([[x, 0, 0, 4.0, 2.0, 2.0, 0.0, 0.0, 0.0]]))


def random_maps(rig: CameraRig) -> MonocularMaps:
    lead = rig.present.shape
    return MonocularMaps(torch.randn(*lead, 4, *SIZE), torch.rand(*lead, *SIZE) + 2, rig, CANVAS)


def make_branch(num_queries: int = 6) -> MonocularBranch:
    return MonocularBranch(Region(), channels=8, num_classes=4, num_queries=num_queries)


def test_an_object_is_painted_at_its_centre_with_its_depth_in_its_camera_only() -> None:
    labels, log_depth = paint_objects(ring_rig(), one_object(10.0), CANVAS, SIZE, 12.0)
    assert labels.shape == (6, *SIZE)
    assert int(labels[0, 8, 14]) == 2 and int(labels[0, 7, 13]) == 2
    assert float(log_depth[0, 8, 14]) == pytest.approx(math.log(10.0))
    assert bool((labels[1:] == -1).all())
    assert 4 <= int((labels[0] >= 0).sum()) < 40


def test_the_nearer_object_wins_where_two_overlap() -> None:
    near, far = one_object(8.0, 1), one_object(20.0, 3)
    both = Targets(torch.cat([far.labels, near.labels]), torch.cat([far.boxes, near.boxes]))
    labels, log_depth = paint_objects(ring_rig(), both, CANVAS, SIZE, 12.0)
    assert int(labels[0, 8, 14]) == 1
    assert float(log_depth[0, 8, 14]) == pytest.approx(math.log(8.0))


@pytest.mark.parametrize("objects", [0, 5])
def test_losses_are_finite_also_without_objects(objects: int) -> None:
    maps = random_maps(ring_rig())
    maps = replace(maps, logits=maps.logits.requires_grad_())
    targets = (Targets(torch.zeros(objects, dtype=torch.int64), random_boxes(objects)),)
    losses = MonocularLoss()(maps, targets)
    sum(losses.values()).backward()
    assert torch.isfinite(maps.logits.grad).all() and maps.logits.grad.abs().max() > 0
    if not objects:
        assert losses["pixel_depth"].item() == 0


def test_right_answers_cost_almost_nothing() -> None:
    rig, target = ring_rig(), one_object(10.0)
    labels, log_depth = paint_objects(rig, target, CANVAS, SIZE, 12.0)
    wanted = torch.nn.functional.one_hot(labels + 1, 5)[..., 1:].movedim(-1, 1)
    maps = MonocularMaps(20.0 * wanted.unsqueeze(0) - 10, log_depth.unsqueeze(0), rig, CANVAS)
    losses = MonocularLoss()(maps, (target,))
    assert losses["pixel_class"].item() < 1e-3 and losses["pixel_depth"].item() < 1e-6


def test_the_best_cell_becomes_the_first_reference_at_its_depth() -> None:
    maps = random_maps(ring_rig())
    maps.logits[0, 0, 1, 8, 14] = 20.0
    maps.log_depth[0, 0, 8, 14] = math.log(12.0)
    _, reference = make_branch().queries(maps, torch.randn(6, 8, *SIZE))
    assert reference.shape == (1, 6, 3)
    point = Region().to_metres(reference)[0, 0]
    assert float(point[0]) == pytest.approx(12.0, abs=1e-3)
    assert float(point[1:].abs().max()) < 1.0  # half a cell of 4 pixels at 12 m


def test_queries_ignore_the_order_of_cameras_and_absent_ones() -> None:
    branch, maps, features = make_branch(), random_maps(ring_rig()), torch.randn(6, 8, *SIZE)
    plain = branch.queries(maps, features)
    order = [4, 2, 0, 5, 1, 3]
    moved = MonocularMaps(
        maps.logits[:, order], maps.log_depth[:, order], maps.rig.select(order), CANVAS
    )
    for before, after in zip(plain, branch.queries(moved, features[order]), strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    loud = torch.full((1, 1, 4, *SIZE), 50.0)
    more = MonocularMaps(
        torch.cat([maps.logits, loud], 1),
        torch.cat([maps.log_depth, loud[:, :, 0]], 1),
        maps.rig.padded(7),
        CANVAS,
    )
    noisy = torch.cat([features, torch.randn(1, 8, *SIZE)])
    for before, after in zip(plain, branch.queries(more, noisy), strict=True):
        torch.testing.assert_close(after, before)
