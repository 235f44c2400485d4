import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from detr2d.config import TrainConfig
from detr2d.optim import (
    COSINE_END,
    Schedule,
    average_weights,
    build_optimizer,
    parameter_groups,
    train_only,
)
from tests.helpers.toy_experiment import PointModel

TRAIN = TrainConfig(epochs=10, lr=0.1, warmup_steps=4, weight_decay=0.3)


def test_only_the_named_parts_are_trained() -> None:
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "mask": nn.Linear(2, 2), "mask_b": nn.ReLU()})
    train_only(model, ())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model["mask"].bias.requires_grad_(False)
    train_only(model, ("mask",))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["mask.weight"]
    with pytest.raises(ValueError, match=r"has no head; its parts are body, mask, mask_b"):
        train_only(model, ("head",))


def test_groups_separate_backbone_and_vectors_and_hold_every_parameter_once() -> None:
    model = PointModel(width=8, dropout=0.0)
    named = {id(p): name for name, p in model.named_parameters()}
    rates = {
        named[id(p)]: (round(group["lr"], 6), group["weight_decay"])
        for group in parameter_groups(model, replace(TRAIN, backbone_lr_factor=0.1))
        for p in group["params"]
    }
    assert rates == {
        "backbone.weight": (0.01, 0.3),
        "backbone.bias": (0.01, 0.0),
        "norm.weight": (0.1, 0.0),
        "norm.bias": (0.1, 0.0),
        "query.weight": (0.1, 0.0),
        "head.weight": (0.1, 0.3),
        "head.bias": (0.1, 0.0),
    }


def test_named_parameters_are_as_slow_as_the_backbone() -> None:
    model = PointModel(width=8, dropout=0.0)
    train = replace(TRAIN, backbone_lr_factor=0.1, slow_parameters=("head",))
    groups = parameter_groups(model, train)
    slow = {id(p) for group in groups if group["lr"] < 0.1 for p in group["params"]}
    assert slow == {id(p) for p in [*model.backbone.parameters(), *model.head.parameters()]}


def test_frozen_parameters_are_left_out() -> None:
    model = PointModel(width=8, dropout=0.0)
    model.backbone.requires_grad_(False)
    held = {id(p) for group in parameter_groups(model, TRAIN) for p in group["params"]}
    assert not held & {id(p) for p in model.backbone.parameters()}


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_warm_up_rises_linearly(schedule: str) -> None:
    plan = Schedule(replace(TRAIN, schedule=schedule), steps_per_epoch=5)  # type: ignore[arg-type]
    assert [plan.factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_cosine_falls_by_half_a_wave_to_its_end() -> None:
    plan = Schedule(TRAIN, steps_per_epoch=5)
    assert plan.num_steps == 50
    assert plan.factor(4) == pytest.approx(1.0)
    assert plan.factor(49) == pytest.approx(COSINE_END)
    assert plan.factor(4 + 15) == pytest.approx(  # a third of the 45 intervals
        COSINE_END + (1 - COSINE_END) * (1 + math.cos(math.pi / 3)) / 2
    )


@pytest.mark.parametrize(("step", "factor"), [(14, 1.0), (15, 0.1), (39, 0.1), (40, 0.01)])
def test_step_divides_by_ten_at_the_start_of_its_epochs(step: int, factor: float) -> None:
    train = replace(TRAIN, schedule="step", step_epochs=(8, 3))
    assert Schedule(train, steps_per_epoch=5).factor(step) == pytest.approx(factor)


def test_apply_keeps_the_ratio_of_the_groups() -> None:
    model = PointModel(width=8, dropout=0.0)
    optimizer = torch.optim.AdamW(parameter_groups(model, TRAIN))
    plan = Schedule(TRAIN, steps_per_epoch=5)
    for step in (3, 0, 1):
        plan.apply(optimizer, step)
    assert {round(group["lr"], 9) for group in optimizer.param_groups} == {0.05, 0.005}


def test_average_follows_the_ramped_exponential_mean() -> None:
    model = nn.BatchNorm1d(1)
    average = average_weights(model, decay=0.25)
    expected = 1.0
    for count, value in enumerate([2.0, 4.0, -1.0, 8.0]):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(10 * value)
            model.num_batches_tracked.fill_(count)
        average.update_parameters(model)
        decay = min(0.25, (1 + count) / (10 + count)) if count else 0.0
        expected = decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)
        assert average.module.running_mean.item() == pytest.approx(10 * expected)
        assert average.module.num_batches_tracked.item() == count


def test_muon_moves_a_matrix_in_all_directions_alike_and_vectors_as_adamw_does() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(8, 8, 3), nn.Embedding(8, 8))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = build_optimizer(model, replace(TRAIN, optimizer="muon", weight_decay=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * torch.rand_like(parameter) ** 4
    optimizer.step()
    moved = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
    matrix, vector, convolution, table = moved[0], moved[1], moved[2].flatten(1), moved[4]
    for update, longer_side in ((matrix, 8), (convolution, 72)):
        strengths = torch.linalg.svdvals(update) / (TRAIN.lr * 0.2 * longer_side**0.5)
        assert strengths.min() > 0.4 and strengths.max() < 1.4
    assert torch.linalg.svdvals(table).max() > 3 * torch.linalg.svdvals(table).min()
    assert vector.abs().max() < 2 * TRAIN.lr


def test_muon_runs_resume_from_a_state() -> None:
    train = replace(TRAIN, optimizer="muon")
    models = [nn.Linear(4, 4), nn.Linear(4, 4)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [build_optimizer(model, train) for model in models]

    def step(index: int, inputs: torch.Tensor) -> None:
        models[index](inputs).square().sum().backward()
        optimizers[index].step()
        optimizers[index].zero_grad()

    first, second = torch.randn(3, 4), torch.randn(3, 4)
    step(0, first)
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(deepcopy(optimizers[0].state_dict()))
    step(0, second)
    step(1, second)
    assert torch.equal(models[0].weight, models[1].weight)
