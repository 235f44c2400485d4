"""Deterministic budgets: kernels and host reads per step, without a clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detr2d.benchmark.subjects import noise_batch
from detr2d.config import SystemConfig
from detr2d.inference import prepare_inference
from detr2d.structures import Predictions
from detr2d.systems.deformable_detr import DeformableDETRConfig
from detr2d.systems.detr import DETRConfig
from detr2d.systems.dino import DenoisingConfig, DINOConfig
from tests.helpers.budgets import Budget, Counting, check_nothing_waits, check_step
from tests.helpers.toy_configs import DEFORMABLE, TRANSFORMER, backbone

CLASSES = tuple(str(number) for number in range(91))
SIX = {"encoder_layers": 6, "decoder_layers": 6}
DEEP: dict[str, Any] = {
    "backbone": replace(backbone(2, 3, 4), norm="frozen"),
    "transformer": replace(DEFORMABLE, **SIX),
    "num_queries": 12,
}
SYSTEMS: dict[str, SystemConfig] = {
    "detr": DETRConfig(
        backbone=replace(backbone(4), norm="frozen"), transformer=replace(TRANSFORMER, **SIX)
    ),
    "deformable": DeformableDETRConfig(**DEEP),
    "two-stage": DeformableDETRConfig(two_stage=True, refine_boxes=True, **DEEP),
    "dino": DINOConfig(denoising=DenoisingConfig(count=50), **DEEP),
}
BUDGETS = {
    "detr": Budget(forward=525, criterion=130, backward=810, saved=670_000),
    "deformable": Budget(forward=735, criterion=150, backward=1050, saved=4_900_000),
    "two-stage": Budget(forward=825, criterion=285, backward=1020, saved=5_300_000),
    "dino": Budget(forward=1060, criterion=395, backward=1490, saved=13_400_000),
}
systems = pytest.mark.parametrize("name", SYSTEMS)


@pytest.fixture(scope="module")
def detr() -> nn.Module:
    torch.manual_seed(0)
    return DETRConfig().build(CLASSES)


def test_a_forward_of_detr_r50_starts_few_kernels_and_reads_nothing(detr: nn.Module) -> None:
    predict = prepare_inference(detr, "float32", torch.device("cpu"))
    batch = noise_batch((64, 64), images=1, objects=0)
    with torch.no_grad(), Counting() as count:  # inference mode would hide what composites do
        predict(batch)
    assert count.total <= 400, count.kernels.most_common(30)
    assert not count.host_reads


@systems
def test_a_training_step_stays_within_its_budget(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, batch = SYSTEMS[name].build(CLASSES), noise_batch((64, 96), images=2, objects=5)
    criterion = SYSTEMS[name].build_criterion(CLASSES)
    copies = check_step(model, criterion, batch, BUDGETS[name], monkeypatch)
    assert copies == (2 if name in ("two-stage", "dino") else 1)  # each stage is matched


@systems
@pytest.mark.parametrize("training", [False, True])
def test_a_forward_makes_the_host_wait_for_nothing(
    name: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SYSTEMS[name].build(CLASSES).train(training)
    check_nothing_waits(model, noise_batch((64, 96), images=2, objects=5), monkeypatch)


def predictions(images: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(6, images, 100, 92, requires_grad=True),
        torch.rand(6, images, 100, 4, requires_grad=True),
    )


@pytest.mark.parametrize("images", [1, 8])
def test_the_criterion_costs_the_same_for_any_number_of_layers_and_images(images: int) -> None:
    criterion = DETRConfig().build_criterion(CLASSES)
    logits, boxes = predictions(images)
    targets = noise_batch((64, 64), images=images, objects=7).targets
    with Counting() as forward:
        losses = criterion(Predictions(logits, boxes), targets)
        loss = torch.stack(list(losses.values())).sum()
    with Counting() as backward:
        loss.backward()
    assert forward.total <= 125, forward.kernels.most_common(30)
    assert backward.total <= 102, backward.kernels.most_common(30)
    assert not forward.host_reads  # the costs travel once, as a copy
    assert forward.kernels["_to_copy"] <= 8


def test_the_optimizer_updates_all_weights_in_a_few_kernels() -> None:
    weights = [nn.Parameter(torch.zeros(3, 3)) for _ in range(300)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=True)
    optimizer.step()
    with Counting() as count:
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    assert count.total <= 20, count.kernels.most_common()
