from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from det3d.boxes import MetricBox3D
from det3d.cameras import CameraRig
from det3d.geometry import Region
from det3d.monocular import (
    FARTHEST,
    MonocularBranch,
    MonocularMaps,
    QueryStart,
    answered_depth,
    blank_start,
    decode_answers,
    ground_depth,
)
from det3d.monocular_loss import MonocularLoss, WantedMaps, paint_objects
from detr2d.structures import Targets
from tests.helpers.rigs import random_boxes, ring_rig

CANVAS, SIZE, CLASSES, GROUND = (64, 112), (16, 28), 4, -1.0
FOCAL = 56 / math.tan(math.radians(35))  # pixels, of the ring rig; a cell is 4 wide


def one_object(x: float, label: int = 2) -> Targets:
    """A car-sized box on the road, on the axis of the ring rig's first camera."""
    return Targets(torch.tensor([label]), torch.tensor([[x, 0, 0, 4.0, 2.0, 2.0, 0.0, 3.0, 1.0]]))


def both(first: Targets, second: Targets) -> Targets:
    return Targets(torch.cat([first.labels, second.labels]), torch.cat([first.boxes, second.boxes]))


def paint(target: Targets) -> WantedMaps:
    return paint_objects(ring_rig(), target, CANVAS, SIZE, CLASSES, 12.0)


def random_maps(rig: CameraRig) -> MonocularMaps:
    lead = rig.present.shape
    answers = torch.rand(*lead, 12, *SIZE)
    return MonocularMaps(torch.randn(*lead, CLASSES, *SIZE), answers, rig, CANVAS, GROUND)


def make_branch(num_queries: int = 6) -> MonocularBranch:
    return MonocularBranch(
        Region(), channels=8, num_classes=CLASSES, num_queries=num_queries, ground=GROUND
    )


def all_right(wanted: WantedMaps) -> MonocularMaps:
    """Maps of one scene that answer exactly what is wanted, sure of their scores."""
    logits = 20.0 * (wanted.heat == 1) - 10
    return MonocularMaps(logits[None], wanted.answers[None], ring_rig(), CANVAS, GROUND)


def test_an_object_heats_its_class_at_its_centre_in_its_camera_only() -> None:
    wanted = paint(one_object(10.0))
    assert wanted.heat.shape == (6, CLASSES, *SIZE)
    assert float(wanted.heat[0, 2].max()) == 1 and int((wanted.heat == 1).sum()) == 1
    row, column = divmod(int(wanted.heat[0, 2].argmax()), SIZE[1])
    assert row in (7, 8) and column in (13, 14)  # the optical axis meets four cells
    assert 0 < float(wanted.heat[0, 2, row, column - 1]) < 1
    assert not wanted.heat[1:].any() and not wanted.heat[0, [0, 1, 3]].any()
    assert 4 <= int(wanted.owned[0].sum()) < 40 and not wanted.owned[1:].any()


def test_every_cell_that_an_object_owns_answers_with_its_exact_box() -> None:
    boxes = torch.tensor(
        [[10.0, 1.0, -0.25, 4, 2, 1.5, 2.0, 3.0, -1.0], [-3.0, 9.0, 0, 1, 0.5, 2, -3.0, 0, 0]]
    )
    wanted = paint(Targets(torch.tensor([2, 0]), boxes))
    codes = decode_answers(all_right(wanted))[0].movedim(1, -1)[wanted.owned]  # (cells, 10)
    expected = MetricBox3D().encode(boxes)
    distance = (codes[:, None] - expected).abs().amax(-1)  # (cells, T)
    assert float(distance.min(1).values.max()) < 1e-3
    assert set(distance.argmin(1).tolist()) == {0, 1}


def test_the_nearer_object_owns_the_cells_where_two_overlap() -> None:
    wanted = paint(both(one_object(20.0, 3), one_object(8.0, 1)))
    assert float(wanted.answers[0, 2, 8, 14]) == pytest.approx(math.log(8.0 * 4 / FOCAL), abs=1e-5)
    assert float(wanted.log_depth[0, 8, 14]) == pytest.approx(math.log(8.0), abs=1e-5)
    assert float(wanted.heat[0, 3].max()) == 1 and float(wanted.heat[0, 1].max()) == 1


def test_an_object_behind_every_camera_is_not_painted() -> None:
    rig = ring_rig().select([0])
    wanted = paint_objects(rig, one_object(-10.0), CANVAS, SIZE, CLASSES, 12.0)
    assert not wanted.heat.any() and not wanted.owned.any()


@pytest.mark.parametrize("objects", [0, 5])
def test_losses_are_finite_also_without_objects(objects: int) -> None:
    maps = random_maps(ring_rig())
    maps = replace(maps, logits=maps.logits.requires_grad_(), answers=maps.answers.requires_grad_())
    boxes = random_boxes(objects)
    boxes[:, 7:] = torch.nan
    targets = (Targets(torch.zeros(objects, dtype=torch.int64), boxes),)
    losses = MonocularLoss()(maps, targets)
    sum(losses.values()).backward()
    assert torch.isfinite(maps.logits.grad).all() and maps.logits.grad.abs().max() > 0
    assert torch.isfinite(maps.answers.grad).all()
    assert not maps.answers.grad[:, :, 8:10].any()  # unknown velocities ask for nothing
    if not objects:
        assert losses["pixel_box"].item() == 0


def test_right_answers_cost_almost_nothing_and_wrong_ones_their_difference() -> None:
    wanted = paint(one_object(10.0))
    losses = MonocularLoss()(all_right(wanted), (one_object(10.0),))
    assert losses["pixel_class"].item() < 1e-3
    assert losses["pixel_box"].item() < 1e-6 and losses["pixel_depth"].item() < 1e-5
    longer = wanted.answers.clone()
    longer[:, 3] += 0.5  # weight 0.3
    maps = replace(all_right(wanted), answers=longer[None])
    losses = MonocularLoss()(maps, (one_object(10.0),))
    assert losses["pixel_box"].item() == pytest.approx(0.15, rel=1e-4)


@pytest.mark.parametrize("trust, expected", [(-20.0, 25.0), (20.0, 10.0), (0.0, 250**0.5)])
def test_depth_by_size_and_by_ground_are_weighed_by_trust(trust: float, expected: float) -> None:
    wanted = paint(one_object(10.0))
    answers = wanted.answers.clone()
    answers[:, 2] = math.log(25.0 * 4 / FOCAL)
    answers[:, 11] = trust
    maps = replace(all_right(wanted), answers=answers[None])
    depth = answered_depth(maps)[0][wanted.owned].exp()
    torch.testing.assert_close(depth, torch.full_like(depth, expected), atol=0, rtol=1e-4)


def test_rays_above_the_horizon_meet_the_ground_at_the_farthest() -> None:
    pixels = torch.tensor([[56.0, 20.0], [56.0, 32.0 + FOCAL / 10]]).expand(1, 6, 2, 2)
    depth = ground_depth(ring_rig(), pixels, GROUND)
    torch.testing.assert_close(depth[0, 0], torch.tensor([FARTHEST, 10.0]))


def test_the_best_cell_becomes_the_first_query_with_its_box_and_classes() -> None:
    branch, maps = make_branch(), random_maps(ring_rig())
    wanted = paint(one_object(12.0)).answers
    maps.logits[0, 0, 1, 8, 14] = 20.0
    maps.answers[0, 0, :, 8, 14] = wanted[0, :, 8, 14]
    start = branch.start(maps, torch.randn(6, 8, *SIZE))
    assert start.reference.shape == (1, 6, 3)
    point = Region().to_metres(start.reference)[0, 0]
    torch.testing.assert_close(point, torch.tensor([12.0, 0, 0]), atol=1e-3, rtol=0)
    expected = MetricBox3D().encode(one_object(12.0).boxes)[0, 3:]
    torch.testing.assert_close(start.codes[0, 0], expected, atol=1e-4, rtol=0)
    assert float(start.logits[0, 0, 1]) == pytest.approx(20 + math.log(99), rel=1e-5)


def test_queries_ignore_the_order_of_cameras_and_absent_ones() -> None:
    branch, maps, features = make_branch(), random_maps(ring_rig()), torch.randn(6, 8, *SIZE)
    plain = branch.start(maps, features)
    order = [4, 2, 0, 5, 1, 3]
    moved = MonocularMaps(
        maps.logits[:, order], maps.answers[:, order], maps.rig.select(order), CANVAS, GROUND
    )
    loud = torch.full((1, 1, 12, *SIZE), 50.0)
    more = MonocularMaps(
        torch.cat([maps.logits, loud[:, :, :CLASSES]], 1),
        torch.cat([maps.answers, loud], 1),
        maps.rig.padded(7),
        CANVAS,
        GROUND,
    )
    noisy = torch.cat([features, torch.randn(1, 8, *SIZE)])
    for other in (branch.start(moved, features[order]), branch.start(more, noisy)):
        for name in ("content", "reference", "logits", "codes"):
            before, after = getattr(plain, name), getattr(other, name)
            torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_joined_starts_keep_their_order_and_blank_ones_say_nothing() -> None:
    blank = blank_start(torch.ones(1, 2, 8), torch.rand(1, 2, 3), CLASSES)
    assert not blank.logits.any() and not blank.codes.any()
    found = QueryStart(
        torch.zeros(1, 1, 8), torch.rand(1, 1, 3), torch.ones(1, 1, 4), torch.ones(1, 1, 7)
    )
    joined = blank.joined(found)
    assert joined.content[0, :, 0].tolist() == [1, 1, 0]
    assert joined.logits[0, :, 0].tolist() == [0, 0, 1]
