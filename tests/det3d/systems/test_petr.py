from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from det3d.denoising import DenoisingConfig
from det3d.heads import GroupedBoxHead
from det3d.monocular import MonocularConfig
from det3d.ray_positions import Depths
from det3d.structures import SceneBatch
from det3d.systems.petr import PETRConfig
from det3d.systems.petrv2 import PETRv2Config
from detr2d.backbones.resnet import ResNetConfig
from detr2d.images import Standardization
from tests.helpers.rigs import random_scene

CLASSES = tuple(f"class{index}" for index in range(10))
TINY = ResNetConfig(depth=10, widths=(8, 8, 16, 16), out_stages=(3, 4), norm="batch")
SMALL = {
    "backbone": TINY, "channels": 16, "num_queries": 20, "num_layers": 2, "heads": 2, "hidden": 32,
    "dropout": 0.0, "depths": Depths(count=8),
}  # fmt: skip
PETR = PETRConfig(cells="view", **SMALL)
PETRV2 = PETRv2Config(cells="view", **SMALL)
FROM_SCRATCH = {
    "backbone": replace(TINY, out_stages=(2, 3, 4)), "token_level": 1, "finest_period": 1 / 16,
    "centre_step": 0.25, "images": Standardization(), "monocular": MonocularConfig(num_queries=8),
}  # fmt: skip
PETR_SCRATCH, PETRV2_SCRATCH = replace(PETR, **FROM_SCRATCH), replace(PETRV2, **FROM_SCRATCH)
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


TRAINED = {
    "petr": PETR,
    "petrv2": PETRV2,
    "denoising": NOISY,
    "petr from scratch": PETR_SCRATCH,
    "petrv2 from scratch": PETRV2_SCRATCH,
    "denoising from scratch": replace(NOISY, **FROM_SCRATCH),
}


@pytest.mark.parametrize("config", TRAINED.values(), ids=TRAINED)
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


@pytest.mark.parametrize("config", [PETR_SCRATCH, PETRV2_SCRATCH], ids=["petr", "petrv2"])
def test_single_images_add_queries_and_losses(config: PETRConfig | PETRv2Config) -> None:
    scene = two_moments()
    predictions = config.build(CLASSES)(scene)
    cameras = 6 if isinstance(config, PETRConfig) else 3
    assert predictions.logits.shape == (2, 2, 20 + 8, 10)
    assert predictions.monocular.logits.shape == (2, cameras, 10, 8, 14)
    losses = config.build_criterion(CLASSES)(predictions, scene.targets)
    assert {"pixel_class", "pixel_box", "pixel_depth", "layer0/l1", "class"} <= losses.keys()


def test_released_settings_have_no_part_that_training_from_scratch_adds() -> None:
    plain = {name.split(".")[0] for name in PETRV2.build(CLASSES).state_dict()}
    more = {name.split(".")[0] for name in PETRV2_SCRATCH.build(CLASSES).state_dict()}
    assert more - plain == {"moving"} and "monocular" not in PETR.build(CLASSES).state_dict()


def test_without_past_gradients_evaluation_is_the_same_and_the_past_trains_nothing() -> None:
    model, scene = shaken(PETRV2_SCRATCH), two_moments()
    plain = model(scene)
    model.past_gradients = False
    held = model(scene)
    torch.testing.assert_close(held.logits, plain.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(held.codes, plain.codes, atol=1e-4, rtol=1e-4)
    present = scene.rig.present.clone()
    present[:, :3] = False
    past = model(replace(scene, rig=replace(scene.rig, present=present)))
    past.logits.sum().backward()
    grads = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize("level", [-1, 2])
@pytest.mark.parametrize("config", [PETR, PETRV2], ids=["petr", "petrv2"])
def test_a_level_that_the_neck_lacks_is_named(
    config: PETRConfig | PETRv2Config, level: int
) -> None:
    with pytest.raises(ValueError, match=f"one of the neck's 2 maps, got {level}"):
        replace(config, token_level=level)


def test_single_images_need_a_neck() -> None:
    with pytest.raises(ValueError, match="set neck to cpfpn"):
        replace(PETR, neck="none", monocular=MonocularConfig())


def test_velocity_is_a_displacement_by_the_time_between_the_frames() -> None:
    model = shaken(PETRV2)
    once, twice = model(two_moments(apart=0.5)), model(two_moments(apart=1.0))
    torch.manual_seed(0)
    scene = two_moments(apart=0.5)
    slower = replace(scene, rig=replace(scene.rig, timestamps=2 * scene.rig.timestamps))
    once, twice = model(scene), model(slower)
    torch.testing.assert_close(once.codes[..., 8:], 2 * twice.codes[..., 8:])
    torch.testing.assert_close(once.codes[..., :8], twice.codes[..., :8])


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
