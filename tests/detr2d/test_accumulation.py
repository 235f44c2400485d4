"""Micro-batches add up to the gradients of one large batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detr2d.accumulation import Divisor, Shares, step_shares, total
from detr2d.config import Experiment, TrainConfig
from detr2d.engine import Training
from tests.helpers.given import given
from tests.helpers.hostile import WORLDS, world_of
from tests.helpers.toy_configs import small_systems

COUNTS = (3, 0, 5, 1, 0, 0, 7, 2)  # objects of the eight samples; the order is shuffled


def test_floors_are_of_the_whole_step() -> None:
    objects = [Divisor(torch.tensor(n)) for n in (0.0, 0.0, 3.0)]
    assert [float(divisor.value()) for divisor in objects] == [1, 1, 3]
    assert float(total(objects).value()) == 3
    assert float(total(objects[:2]).value()) == 1
    scenes = [Divisor(torch.tensor(n), once=0, each=2) for n in (0.0, 9.0)]
    assert float(total(scenes).value()) == 9
    assert float(total(scenes[:1] * 3).value()) == 6


def test_terms_without_a_divisor_are_averaged() -> None:
    shares = Shares(({"class": torch.tensor(0.75)},), 0.25)
    losses = {name: torch.tensor(4.0) for name in ("layer0/class", "own")}
    weighed = shares.weigh(0, losses)
    assert {name: float(value) for name, value in weighed.items()} == {"layer0/class": 3, "own": 1}


def test_a_single_batch_asks_for_no_divisor() -> None:
    losses = {"class": torch.tensor(4.0)}
    assert step_shares(None, None, [None]).weigh(0, losses) is losses  # type: ignore[arg-type]


def frozen(system: Any) -> Any:
    """Fixed statistics, no dropout, and no denoising: its noise is drawn anew in every batch."""
    changes: dict[str, Any] = {"backbone": replace(system.backbone, norm="frozen")}
    return replace(
        system, **changes, **({"denoising": None} if hasattr(system, "denoising") else {})
    )


def gradients(name: str, folder: Path, batch_size: int, seed: int) -> dict[str, torch.Tensor]:
    """Gradients of the first step over eight samples, in micro-batches of ``batch_size``."""
    world = world_of(name)
    torch.manual_seed(3)
    samples = [world.sample(objects=count, token=str(i)) for i, count in enumerate(COUNTS)]
    experiment = Experiment(
        system=frozen(small_systems()[name]),
        data=given(samples, world.names, world.join),
        train=TrainConfig(
            batch_size=batch_size, accumulate=8 // batch_size, workers=0, clip_norm=0, seed=seed
        ),
        work_dir=folder,
    )
    training = Training(experiment)
    for module in training.bare_model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # of the monocular tower
    kept: dict[str, torch.Tensor] = {}
    training.optimizer.step = lambda: kept.update(
        (n, p.grad.clone()) for n, p in training.bare_model.named_parameters() if p.grad is not None
    )
    values = training.update(next(training.groups(1)))
    assert values is not None
    return {**kept, "the loss": torch.tensor([values["loss"]])}


@pytest.mark.parametrize("name", WORLDS)
def test_four_times_two_is_eight(name: str, tmp_path: Path) -> None:
    """To 1e-6, unless rounding falls on a kink (ReLU, the edge of a sampled cell): a wrong count
    would be off by a hundredth in every order of the samples."""
    differences = []
    for seed in (5, 6):
        large, small = (gradients(name, tmp_path, size, seed) for size in (8, 2))
        assert large.keys() == small.keys()
        size = torch.stack([value.norm() for value in large.values()]).norm()
        off = torch.stack([(large[key] - small[key]).norm() for key in large]).norm()
        differences.append(float(off / size))
    print(f"{name}: relative differences {differences}")
    assert min(differences) <= 1e-6 and max(differences) <= 1e-4
