from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from det3d.boxes import MetricBox3D
from det3d.cameras import TENSORS
from det3d.geometry import Region
from det3d.monocular import (
    MonocularBranch,
    MonocularMaps,
    QueryStart,
)
from det3d.monocular_loss import paint_objects
from det3d.two_moments import DisplacementVelocity, MovingStart, halves, seconds_between
from detr2d.decoder import prior_bias
from detr2d.structures import Targets
from tests.helpers.rigs import ring_rig

CANVAS, SIZE, CLASSES, CHANNELS, GROUND = (64, 112), (16, 28), 4, 8, -1.0
CAR, PEDESTRIAN = 1, 3


def sure(label: int) -> Tensor:
    """Logits (K,) above the prior of a query that is sure of its class."""
    return torch.where(torch.arange(CLASSES) == label, 6.0, -6.0) - prior_bias()


def started(centres: list[list[float]], labels: list[int]) -> QueryStart:
    """Queries of one scene with given centres in metres, sure of their classes, at rest."""
    codes = torch.zeros(1, len(centres), 7)
    codes[..., 4] = 1
    reference = Region().to_unit(torch.tensor(centres, dtype=torch.float32))[None]
    logits = torch.stack([sure(label) for label in labels])[None]
    return QueryStart(torch.ones(1, len(centres), CHANNELS), reference, logits, codes)


def trusting() -> DisplacementVelocity:
    """Untrained, but sure of displacements and not of single images."""
    module = DisplacementVelocity(Region(), channels=CHANNELS, num_classes=CLASSES)
    torch.nn.init.constant_(module.motion[-1].bias[:2], 20.0)
    return module


def velocities(
    now: QueryStart, before: QueryStart, elapsed: float = 0.5, seen: bool = True
) -> Tensor:
    out = trusting()(now, before, torch.tensor([elapsed]), torch.tensor([seen]))
    assert torch.equal(out.codes[..., :5], now.codes[..., :5])
    assert torch.equal(out.reference, now.reference) and torch.equal(out.logits, now.logits)
    return out.codes[0, :, 5:]


def test_an_object_that_stays_has_no_velocity_and_one_that_moves_its_displacement() -> None:
    now = started([[10, 2, 0], [-8, -20, 0]], [CAR, PEDESTRIAN])
    before = started([[-8, -19.5, 0], [10, 2, 0]], [PEDESTRIAN, CAR])
    expected = torch.tensor([[0.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(velocities(now, before), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(velocities(now, before, 1.0), expected / 2, atol=0.02, rtol=0)


def test_the_class_tells_which_of_two_neighbours_it_was() -> None:
    now = started([[10, 0, 0]], [CAR])
    before = started([[10, 0, 0], [8, 1, 0]], [PEDESTRIAN, CAR])
    expected = torch.tensor([[4.0, -2.0]])  # of which 2 % are lost to "none of them"
    torch.testing.assert_close(velocities(now, before), expected, atol=0.15, rtol=0)


@pytest.mark.parametrize("seen", [True, False])
def test_without_a_plausible_past_the_single_image_decides(seen: bool) -> None:
    now, before = started([[10, 0, 0]], [CAR]), started([[10, 0.5 if not seen else 40, 0]], [CAR])
    now.codes[0, 0, 5:] = torch.tensor([3.0, -1.0])
    expected = torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(velocities(now, before, seen=seen), expected, atol=1e-3, rtol=0)


def test_the_order_of_earlier_queries_changes_nothing() -> None:
    module = DisplacementVelocity(Region(), channels=CHANNELS, num_classes=CLASSES)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    now, before = (
        QueryStart(
            torch.randn(1, n, CHANNELS), torch.rand(1, n, 3), torch.randn(1, n, CLASSES),
            torch.randn(1, n, 7),
        )
        for n in (3, 5)
    )  # fmt: skip
    turned = QueryStart(*(getattr(before, name).flip(1) for name in before.__dataclass_fields__))
    elapsed, seen = torch.tensor([0.5]), torch.tensor([True])
    one, other = module(now, before, elapsed, seen), module(now, turned, elapsed, seen)
    torch.testing.assert_close(one.codes, other.codes, atol=1e-5, rtol=1e-5)


class ToldBranch(MonocularBranch):
    """Answers what it is told, in turn, instead of looking at features."""

    def tell(self, answers: list[MonocularMaps]) -> None:
        self.answers = list(answers)

    def forward(self, features, rig, canvas):  # type: ignore[no-untyped-def]
        maps = replace(self.answers.pop(0), rig=rig)
        return maps, self.start(maps, features)


@pytest.mark.parametrize("velocity", [(0.0, 0.0), (0.0, 2.0), (3.0, 1.0)])
def test_maps_of_two_moments_give_the_velocity_despite_ego_motion(
    velocity: tuple[float, float],
) -> None:
    """The car was 4 m further back and turned by a quarter; the object moved by itself."""
    now = ring_rig()
    present_from_past = torch.tensor([[0.0, -1, 0, -4], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    past = ring_rig().moved(torch.linalg.inv(present_from_past))
    past = replace(past, timestamps=past.timestamps - 0.5)
    box = torch.tensor([[10.0, 1.0, 0, 4, 2, 2, 0.3, *velocity]])
    earlier = box.clone()
    earlier[:, :2] -= 0.5 * box[:, 7:]
    answers = []
    for rig, boxes in ((now, box), (past, earlier)):
        wanted = paint_objects(rig, Targets(torch.tensor([CAR]), boxes), CANVAS, SIZE, CLASSES, 9.0)
        silent = wanted.answers.clone()
        silent[:, 8:10] = 0  # single images do not tell
        logits = 16.0 * (wanted.heat == 1) - 10
        answers.append(MonocularMaps(logits[None], silent[None], rig, CANVAS, GROUND))
    branch = ToldBranch(
        Region(), channels=CHANNELS, num_classes=CLASSES, num_queries=3, ground=GROUND
    )
    branch.tell(answers)
    both = replace(
        now,
        **{name: torch.cat([getattr(now, name), getattr(past, name)], 1) for name in TENSORS},
    )
    features = torch.ones(12, CHANNELS, *SIZE)
    _, start = MovingStart(branch, trusting())(features, both, CANVAS)
    centre = Region().to_metres(start.reference)[0, 0]
    torch.testing.assert_close(centre, box[0, :3], atol=1e-3, rtol=0)
    found = MetricBox3D().decode(torch.cat([centre, start.codes[0, 0]]))[7:]
    torch.testing.assert_close(found, torch.tensor(velocity), atol=0.15, rtol=0)


def test_seconds_are_averaged_over_cameras_present_in_both_frames() -> None:
    rig = ring_rig(4)
    rig.timestamps[0] = torch.tensor([1.0, 3.0, 0.5, 1.0])
    assert seconds_between(rig).tolist() == [1.25]
    rig.present[0, 1] = False
    assert seconds_between(rig).tolist() == [0.5]
    rig.present[0, 0] = False
    assert seconds_between(rig).tolist() == [1.0]


def test_an_odd_number_of_cameras_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rig has 3: set data\.previous"):
        halves(ring_rig(3))
