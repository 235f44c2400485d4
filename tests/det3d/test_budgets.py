"""Deterministic budgets of 3D systems: kernels, waits of the host, bytes kept for backward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from det3d.denoising import DenoisingConfig
from det3d.monocular import MonocularConfig
from det3d.ray_positions import Depths
from det3d.structures import SceneBatch
from det3d.systems.detr3d import DETR3DConfig
from det3d.systems.petr import PETRConfig
from det3d.systems.petrv2 import PETRv2Config
from detr2d.config import SystemConfig
from tests.helpers.budgets import Budget, check_nothing_waits, check_step
from tests.helpers.rigs import random_scene
from tests.helpers.toy_configs import backbone

CLASSES = tuple(f"class{index}" for index in range(10))
SMALL: dict[str, Any] = {
    "channels": 16, "num_queries": 12, "num_layers": 6, "heads": 2, "hidden": 32, "dropout": 0.0,
}  # fmt: skip
FOUR = replace(backbone(1, 2, 3, 4), norm="frozen")
TWO: dict[str, Any] = {
    "backbone": replace(backbone(3, 4), norm="frozen"), "depths": Depths(count=8), **SMALL,
}  # fmt: skip
BRANCH = MonocularConfig(num_queries=8)
SYSTEMS: dict[str, SystemConfig] = {
    "detr3d": DETR3DConfig(backbone=FOUR, **SMALL),
    "detr3d from scratch": DETR3DConfig(backbone=FOUR, rig="free", monocular=BRANCH, **SMALL),
    "petr": PETRConfig(**TWO),
    "petrv2": PETRv2Config(denoising=DenoisingConfig(groups=5), **TWO),
    "petrv2 from scratch": PETRv2Config(
        denoising=DenoisingConfig(groups=5), monocular=BRANCH, **TWO
    ),
}
BUDGETS = {
    "detr3d": Budget(forward=945, criterion=85, backward=870, saved=4_200_000),
    "detr3d from scratch": Budget(forward=1410, criterion=580, backward=1400, saved=9_100_000),
    "petr": Budget(forward=625, criterion=85, backward=1040, saved=4_500_000),
    "petrv2": Budget(forward=815, criterion=135, backward=1260, saved=7_000_000),
    "petrv2 from scratch": Budget(forward=1300, criterion=625, backward=1450, saved=8_000_000),
}
systems = pytest.mark.parametrize("name", SYSTEMS)


def absent(scene: SceneBatch, camera: int) -> SceneBatch:
    present = scene.rig.present.clone()
    present[0, camera] = False
    return replace(scene, rig=replace(scene.rig, present=present))


@systems
def test_a_training_step_stays_within_its_budget(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, scene = SYSTEMS[name].build(CLASSES), random_scene(6, scenes=2)
    criterion = SYSTEMS[name].build_criterion(CLASSES)
    assert check_step(model, criterion, scene, BUDGETS[name], monkeypatch) == 1


@systems
@pytest.mark.parametrize("training", [False, True])
def test_a_forward_makes_the_host_wait_for_nothing(
    name: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training with an absent camera."""
    scene = random_scene(6, scenes=2)
    model = SYSTEMS[name].build(CLASSES).train(training)
    check_nothing_waits(model, absent(scene, 4) if training else scene, monkeypatch)
