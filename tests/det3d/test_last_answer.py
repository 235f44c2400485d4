"""Kept position embeddings are those that would be computed, to the bit, and never stale ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from det3d.cameras import CameraRig
from det3d.geometry import Region
from det3d.last_answer import LastAnswer
from det3d.ray_positions import Depths, RayPositions, RigSine, SteadyRays, ViewSine, token_padding
from det3d.systems.petr import PETRConfig
from det3d.systems.petrv2 import PETRv2Config
from detr2d.backbones.resnet import ResNetConfig
from detr2d.inference import prepare_inference
from tests.helpers.rigs import random_scene, ring_rig

CANVAS, SIZE = (64, 112), (4, 7)
TINY = ResNetConfig(depth=10, widths=(8, 8, 16, 16), out_stages=(3, 4), norm="batch")
SMALL = {
    "backbone": TINY, "channels": 16, "num_queries": 20, "num_layers": 2, "heads": 2, "hidden": 32,
    "depths": Depths(count=8),
}  # fmt: skip


@pytest.fixture
def steady() -> SteadyRays:
    return RayPositions(Region(), Depths(count=4), 8).eval().requires_grad_(False).folded()


def answer(steady: SteadyRays, rig: CameraRig) -> Tensor:
    """What it gives, after checking it against the module that remembers nothing."""
    found = steady(rig, CANVAS, SIZE)
    assert torch.equal(found, steady.rays(rig, CANVAS, SIZE))
    return found


def test_an_equal_rig_gets_the_same_tensor(steady: SteadyRays) -> None:
    first = answer(steady, ring_rig(3, CANVAS))
    later = replace(ring_rig(3, CANVAS), timestamps=torch.full((1, 3), 9.0).double())
    assert answer(steady, later) is first


@pytest.mark.parametrize("name", ["intrinsics", "camera_from_ref"])
def test_a_rig_that_changes_in_its_last_bit_is_another_one(steady: SteadyRays, name: str) -> None:
    rig = ring_rig(3, CANVAS)
    first = answer(steady, rig)
    matrices = getattr(rig, name).clone()
    matrices[0, 1, 0, 2] = torch.nextafter(matrices[0, 1, 0, 2], torch.tensor(1e9))
    assert answer(steady, replace(rig, **{name: matrices})) is not first


def test_a_rig_that_is_changed_in_place_is_another_one(steady: SteadyRays) -> None:
    rig = ring_rig(3, CANVAS)
    rig = replace(rig, intrinsics=rig.intrinsics.clone())
    first = answer(steady, rig).clone()
    rig.intrinsics[..., 0, 0] *= 1.1
    assert not torch.equal(answer(steady, rig), first)


def test_other_sizes_and_numbers_of_cameras_are_other_questions(steady: SteadyRays) -> None:
    rig = ring_rig(3, CANVAS)
    answer(steady, rig)
    assert steady(rig, CANVAS, (2, 7)).shape == (1, 3, 2, 7, 8)
    assert not torch.equal(steady(rig, (64, 128), SIZE), steady(rig, CANVAS, SIZE))
    assert answer(steady, rig.select([0, 1])).shape[1] == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda rays: rays.embed[0].weight.data.add_(1),
        lambda rays: rays.load_state_dict({k: v + 1 for k, v in rays.state_dict().items()}),
        lambda rays: rays.to(torch.bfloat16),
        lambda rays: rays.depths.mul_(0.9),
    ],
    ids=["in place", "loaded", "rounded", "buffer"],
)
def test_changed_weights_are_another_question(
    steady: SteadyRays, change: Callable[[RayPositions], object]
) -> None:
    first = answer(steady, ring_rig(3, CANVAS)).clone()
    change(steady.rays)
    found = answer(steady, ring_rig(3, CANVAS))
    assert found.dtype != first.dtype or not torch.equal(found, first)


def test_one_answer_is_kept(steady: SteadyRays) -> None:
    for cameras in (2, 3, 4):
        answer(steady, ring_rig(cameras, CANVAS))
    assert steady.last.last is not None
    assert steady.last.last[1].shape[1] == 4


def test_gradients_are_never_kept_from_flowing() -> None:
    steady = RayPositions(Region(), Depths(count=4), 8).folded()
    with torch.inference_mode():
        steady(ring_rig(3, CANVAS), CANVAS, SIZE)
    for _ in range(2):  # two graphs of the same rig
        steady(ring_rig(3, CANVAS), CANVAS, SIZE).sum().backward()
    weight = steady.rays.embed[0].weight
    assert weight.grad is not None and weight.grad.abs().max() > 0


def test_answers_of_inference_mode_stay_there(steady: SteadyRays) -> None:
    with torch.inference_mode():
        answer(steady, ring_rig(3, CANVAS))
    gain = torch.ones(8, requires_grad=True)
    (steady(ring_rig(3, CANVAS), CANVAS, SIZE) * gain).sum().backward()
    assert gain.grad is not None


def test_autocast_is_part_of_the_question(steady: SteadyRays) -> None:
    plain = steady(ring_rig(3, CANVAS), CANVAS, SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        assert steady(ring_rig(3, CANVAS), CANVAS, SIZE).dtype == torch.bfloat16
    assert torch.equal(steady(ring_rig(3, CANVAS), CANVAS, SIZE), plain)


@pytest.mark.parametrize("cells", [RigSine(8), ViewSine(8)], ids=["rig", "view"])
def test_cells_are_embedded_once_for_equal_padding(cells: RigSine | ViewSine) -> None:
    steady = cells.requires_grad_(False).folded()
    rig = ring_rig(3, (48, 112))
    first = steady(token_padding(rig, CANVAS, SIZE))
    assert torch.equal(first, cells(token_padding(rig, CANVAS, SIZE)))
    assert steady(token_padding(rig, CANVAS, SIZE)) is first
    rig.present[0, 1] = False
    assert torch.equal(
        steady(token_padding(rig, CANVAS, SIZE)), cells(token_padding(rig, CANVAS, SIZE))
    )


def test_answers_are_not_computed_again() -> None:
    calls: list[int] = []
    last = LastAnswer(torch.nn.Identity())

    def compute() -> Tensor:
        calls.append(1)
        return torch.zeros(1)

    for value in (1.0, 1.0, 2.0, 2.0, 1.0):
        last(compute, (torch.tensor(value),))
    assert len(calls) == 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [PETRConfig(**SMALL), PETRConfig(cells="view", **SMALL), PETRv2Config(**SMALL)],
    ids=["petr", "petr by view", "petrv2"],
)
def test_a_second_frame_of_the_same_rig_is_predicted_as_if_it_were_the_first(
    config: PETRConfig | PETRv2Config, precision: str
) -> None:
    model = config.build(tuple(f"class{index}" for index in range(10))).eval()
    for name, parameter in model.named_parameters():
        if not name.startswith(("backbone", "queries.points")):
            torch.nn.init.normal_(parameter, std=0.3)
    device = torch.device("cpu")
    fresh = prepare_inference(copy.deepcopy(model), precision, device)
    used = prepare_inference(model, precision, device)
    scene = random_scene()
    other = replace(scene, images=scene.images.flip(-1))
    with torch.inference_mode():
        used(scene)
        second, alone = used(other), fresh(other)
    assert torch.equal(second.logits, alone.logits) and torch.equal(second.codes, alone.codes)
