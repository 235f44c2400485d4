from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from det3d.denoising import DenoisingConfig
from det3d.heads import GroupedBoxHead
from det3d.ray_positions import Depths
from det3d.structures import SceneBatch
from det3d.systems.petr import PETRConfig
from det3d.systems.petrv2 import PETRv2Config, seconds_between
from detr2d.backbones.resnet import ResNetConfig
from tests.helpers.rigs import random_scene, ring_rig

CLASSES = tuple(f"class{index}" for index in range(10))
TINY = ResNetConfig(depth=10, widths=(8, 8, 16, 16), out_stages=(3, 4), norm="batch")
SMALL = {
    "backbone": TINY, "channels": 16, "num_queries": 20, "num_layers": 2, "heads": 2, "hidden": 32,
    "dropout": 0.0, "depths": Depths(count=8),
}  # fmt: skip
PETR = PETRConfig(cells="view", **SMALL)
PETRV2 = PETRv2Config(cells="view", **SMALL)
NOISY = replace(PETRV2, denoising=DenoisingConfig(groups=2))


def two_moments(cameras: int = 3, apart: float = 0.5) -> SceneBatch:
    scene = random_scene(2 * cameras, scenes=2)
    times = torch.zeros(2, 2 * cameras, dtype=torch.float64)
    times[:, cameras:] = -apart
    return replace(scene, rig=replace(scene.rig, timestamps=times))


def shaken(config: PETRConfig | PETRv2Config) -> torch.nn.Module:
    model = config.build(CLASSES).eval()
    for name, parameter in model.named_parameters():
        if not name.startswith(("backbone", "queries.points")):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("config", [PETR, PETRV2], ids=["petr", "petrv2"])
def test_shapes_of_all_outputs(config: PETRConfig | PETRv2Config) -> None:
    predictions = config.build(CLASSES)(two_moments())
    assert predictions.logits.shape == (2, 2, 20, 10)
    assert predictions.codes.shape == (2, 2, 20, 10)
    assert predictions.references.shape == (3, 2, 20, 3)


def test_permuting_cameras_changes_nothing_without_their_numbers() -> None:
    scene, order = random_scene(), [3, 5, 0, 1, 4, 2]
    moved = replace(scene, images=scene.images[:, order], rig=scene.rig.select(order))
    free, numbered = shaken(PETR), shaken(replace(PETR, cells="rig"))
    torch.testing.assert_close(free(scene).logits, free(moved).logits, atol=1e-5, rtol=1e-4)
    assert (numbered(scene).logits - numbered(moved).logits).abs().max() > 1e-4


def test_predictions_depend_on_the_calibration() -> None:
    model, scene = shaken(PETR), random_scene()
    turned = replace(scene, rig=scene.rig.select([1, 2, 3, 4, 5, 0]))
    assert (model(scene).logits - model(turned).logits).abs().max() > 1e-3


def test_shared_heads_are_one_module() -> None:
    assert len({id(head) for head in PETR.build(CLASSES).class_heads}) == 1
    own = replace(PETR, layer_heads="own").build(CLASSES)
    assert len({id(head) for head in own.class_heads}) == 2


@pytest.mark.parametrize("config", [PETR, PETRV2, NOISY], ids=["petr", "petrv2", "denoising"])
def test_training_reduces_the_loss_and_reaches_every_parameter(
    config: PETRConfig | PETRv2Config,
) -> None:
    model, scene = config.build(CLASSES).train(), two_moments()
    criterion = config.build_criterion(CLASSES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        total = sum(criterion(model(scene), scene.targets).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert losses[-1] < 0.85 * losses[0]
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_velocity_is_a_displacement_by_the_time_between_the_frames() -> None:
    model = shaken(PETRV2)
    once, twice = model(two_moments(apart=0.5)), model(two_moments(apart=1.0))
    torch.manual_seed(0)
    scene = two_moments(apart=0.5)
    slower = replace(scene, rig=replace(scene.rig, timestamps=2 * scene.rig.timestamps))
    once, twice = model(scene), model(slower)
    torch.testing.assert_close(once.codes[..., 8:], 2 * twice.codes[..., 8:])
    torch.testing.assert_close(once.codes[..., :8], twice.codes[..., :8])


def test_seconds_are_averaged_over_cameras_present_in_both_frames() -> None:
    rig = ring_rig(4)
    rig.timestamps[0] = torch.tensor([1.0, 3.0, 0.5, 1.0])
    assert seconds_between(rig).tolist() == [1.25]
    rig.present[0, 1] = False
    assert seconds_between(rig).tolist() == [0.5]
    rig.present[0, 0] = False
    assert seconds_between(rig).tolist() == [1.0]
    with pytest.raises(ValueError, match=r"rig has 3: set data\.previous"):
        seconds_between(ring_rig(3))


def test_denoising_leaves_the_own_queries_alone_and_evaluation_too() -> None:
    model, scene = shaken(NOISY), two_moments()
    plain = model(scene)
    noise = 2 * torch.rand(2 * 10, 3) - 1
    asked = model.denoise(scene, scene.targets, noise)
    torch.testing.assert_close(asked.logits, plain.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(asked.codes, plain.codes, atol=1e-4, rtol=1e-4)
    assert asked.denoised.logits.shape == (2, 20, 10)
    assert getattr(plain, "denoised", None) is None


def test_scenes_without_objects_train_without_denoising() -> None:
    model, scene = NOISY.build(CLASSES).train(), two_moments()
    empty = tuple(replace(t, labels=t.labels[:0], boxes=t.boxes[:0]) for t in scene.targets)
    losses = NOISY.build_criterion(CLASSES)(model(replace(scene, targets=empty)), empty)
    assert all(torch.isfinite(value) for value in losses.values())


def test_grouped_heads_start_at_the_references() -> None:
    assert not GroupedBoxHead(16)(torch.randn(3, 16)).any()
