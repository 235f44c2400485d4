"""An absent camera is exactly one that was never there: outputs, losses, gradients, statistics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from det3d.denoising import DenoisingConfig
from det3d.monocular import MonocularConfig
from det3d.ray_positions import Depths
from det3d.structures import SceneBatch
from det3d.systems.detr3d import DETR3DConfig
from det3d.systems.petr import PETRConfig
from det3d.systems.petrv2 import PETRv2Config
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import SystemConfig
from tests.helpers.rigs import random_scene

CLASSES = tuple(f"class{index}" for index in range(10))
TINY = ResNetConfig(depth=10, widths=(8, 8, 16, 16), out_stages=(3, 4), norm="batch")
SMALL = {"channels": 16, "num_queries": 20, "num_layers": 2, "heads": 2, "hidden": 32}
DETR3D = DETR3DConfig(backbone=TINY, extra_levels=0, rig="free", dropout=0.0, **SMALL)
PETR = PETRConfig(backbone=TINY, depths=Depths(count=8), dropout=0.0, **SMALL)
PETRV2 = PETRv2Config(backbone=TINY, depths=Depths(count=8), dropout=0.0, **SMALL)
SCRATCH = {
    "backbone": replace(TINY, out_stages=(2, 3, 4)), "token_level": 1, "cells": "view",
    "centre_step": 0.25, "monocular": MonocularConfig(num_queries=8),
}  # fmt: skip
SYSTEMS: dict[str, SystemConfig] = {
    "detr3d": DETR3D,
    "detr3d from scratch": replace(DETR3D, monocular=MonocularConfig(num_queries=8)),
    "petr": replace(PETR, cells="view"),
    "petr of a rig": PETR,
    "petr with heads of its own": replace(PETR, cells="view", layer_heads="own"),
    "petr without neck": replace(PETR, backbone=replace(TINY, out_stages=(4,)), neck="none"),
    "petr from scratch": replace(PETR, **SCRATCH),
    "petrv2": replace(PETRV2, cells="view"),
    "petrv2 of a rig": PETRV2,
    "petrv2 with denoising": replace(PETRV2, denoising=DenoisingConfig(groups=2)),
    "petrv2 from scratch": replace(PETRV2, **SCRATCH),
    "petrv2 without past gradients": replace(PETRV2, past_gradients=False, **SCRATCH),
}
systems = pytest.mark.parametrize("config", SYSTEMS.values(), ids=SYSTEMS)


def make_model(config: SystemConfig) -> nn.Module:
    """A model whose zero-initialised heads are shaken, so that outputs depend on inputs."""
    model = config.build(CLASSES)
    for name, parameter in model.named_parameters():
        if not name.startswith(("backbone", "queries.points")):
            nn.init.normal_(parameter, std=0.3)
    return model


def two_moments() -> SceneBatch:
    """Six cameras now and half a second earlier; a valid input of every system."""
    scene = random_scene(12, scenes=2)
    times = torch.zeros(2, 12, dtype=torch.float64)
    times[:, 6:] = -0.5
    return replace(scene, rig=replace(scene.rig, timestamps=times))


def without(scene: SceneBatch, camera: int) -> tuple[SceneBatch, SceneBatch]:
    """The scene with one camera absent at both moments, and the scene without that camera."""
    present = scene.rig.present.clone()
    present[:, [camera, camera + 6]] = False
    absent = replace(scene, rig=replace(scene.rig, present=present))
    others = [index for index in range(12) if index % 6 != camera]
    left_out = replace(scene, images=scene.images[:, others], rig=scene.rig.select(others))
    return absent, left_out


@systems
@pytest.mark.parametrize("camera", [0, 3, 5])
def test_evaluation_gives_what_leaving_it_out_gives(config: SystemConfig, camera: int) -> None:
    model = make_model(config).eval()
    absent, left_out = without(two_moments(), camera)
    with torch.no_grad():
        first, second, whole = model(absent), model(left_out), model(two_moments())
    torch.testing.assert_close(first.logits, second.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.codes, second.codes, atol=1e-4, rtol=1e-4)
    assert (first.logits - whole.logits).abs().max() > 1e-4


@systems
def test_training_gives_what_leaving_it_out_gives(config: SystemConfig) -> None:
    absent, left_out = without(two_moments(), 2)
    states = []
    for scene in (absent, left_out):
        torch.manual_seed(0)
        model = make_model(config).train()
        losses = config.build_criterion(CLASSES)(model(scene), scene.targets)
        sum(losses.values()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        statistics = {name: b for name, b in model.named_buffers() if "running" in name}
        states.append((losses, gradients, statistics))
    for first, second in zip(*states, strict=True):
        assert first.keys() == second.keys() and first
        for name in first:
            torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-3, msg=name)


@systems
def test_what_an_absent_camera_would_show_is_never_seen(config: SystemConfig) -> None:
    model = make_model(config).eval()
    absent, _ = without(two_moments(), 1)
    images, poses = absent.images.clone(), absent.rig.camera_from_ref.clone()
    images[:, [1, 7]] = torch.randint(0, 256, images[:, [1, 7]].shape, dtype=torch.uint8)
    poses[:, [1, 7], :3, 3] += 5
    other = replace(absent, images=images, rig=replace(absent.rig, camera_from_ref=poses))
    with torch.no_grad():
        first, second = model(absent), model(other)
    assert torch.equal(first.logits, second.logits) and torch.equal(first.codes, second.codes)


@pytest.mark.parametrize("camera", [2, 8], ids=["now", "earlier"])
@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_a_camera_can_be_absent_at_one_moment_only(mode: bool, camera: int) -> None:
    model = make_model(PETRV2).train(mode)
    scene = two_moments()
    present = scene.rig.present.clone()
    present[:, camera] = False
    absent = replace(scene, rig=replace(scene.rig, present=present))
    images, times = absent.images.clone(), absent.rig.timestamps.clone()
    images[:, camera] = 255
    times[:, camera] += 7
    other = replace(absent, images=images, rig=replace(absent.rig, timestamps=times))
    first, second = model(absent), model(other)
    assert torch.equal(first.logits, second.logits) and torch.equal(first.codes, second.codes)
    assert (first.logits - model(scene).logits).abs().max() > 1e-4


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_indexed_weights_give_what_weights_without_the_camera_give(mode: bool) -> None:
    config = replace(DETR3D, rig="indexed", num_cameras=12)
    model = make_model(config).train(mode)
    absent, left_out = without(two_moments(), 1)
    smaller = replace(config, num_cameras=10).build(CLASSES).train(mode)
    smaller.load_state_dict(
        {name: without_rows(name, value) for name, value in model.state_dict().items()}
    )
    first, second = model(absent), smaller(left_out)
    torch.testing.assert_close(first.logits, second.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.codes, second.codes, atol=1e-4, rtol=1e-4)
    images = absent.images.clone()
    images[:, [1, 7]] = 255
    assert torch.equal(model(replace(absent, images=images)).logits, model(absent).logits)


def without_rows(name: str, value: Tensor) -> Tensor:
    """The attention weights of 12 cameras without those of the second at both moments."""
    if "cross_attention.weights." not in name:
        return value
    others = [index for index in range(12) if index % 6 != 1]
    return value.unflatten(0, (12, -1))[others].flatten(0, 1)


@systems
def test_a_scene_without_any_camera_stays_finite(config: SystemConfig) -> None:
    model, scene = make_model(config).eval(), two_moments()
    present = scene.rig.present.clone()
    present[0] = False
    blind = replace(scene, rig=replace(scene.rig, present=present))
    with torch.no_grad():
        predictions = model(blind)
    assert torch.isfinite(predictions.logits).all() and torch.isfinite(predictions.codes).all()
