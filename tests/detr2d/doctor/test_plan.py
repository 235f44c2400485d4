"""What a step costs: predicted from what the backward pass keeps, and measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from detr2d.config import TrainConfig
from detr2d.doctor import plan
from detr2d.doctor.plan import Plan, fixed_bytes, plan_training, saved_bytes, split_bytes
from tests.helpers.toy_experiment import PointBatch, PointData, make_experiment

PLAN = Plan(batch=4, fixed=1000, per_sample=100, measured=1400, seconds=0.1, free=2000)


def test_the_largest_divisor_that_fits_is_chosen() -> None:
    assert PLAN.predicted == 1400
    assert PLAN.fitting_batch(8) == 8  # 1000 + 8 * 100 is nine tenths of 2000
    assert replace(PLAN, free=1900).fitting_batch(8) == 4
    assert replace(PLAN, free=1300).fitting_batch(6) == 1
    assert replace(PLAN, free=1000).fitting_batch(8) is None


def test_what_was_measured_beyond_the_prediction_counts() -> None:
    assert replace(PLAN, measured=1800).needed(8) == 1000 + 8 * 200


@pytest.mark.parametrize(
    ("train", "copies"),
    [
        (TrainConfig(), 4),  # weight, gradient, two moments
        (TrainConfig(ema_decay=0.9), 5),
        (TrainConfig(optimizer="muon"), 3),
    ],
)
def test_fixed_bytes_count_states(train: TrainConfig, copies: int) -> None:
    model = nn.Linear(16, 8, bias=False)
    assert fixed_bytes(model, train) == copies * 4 * 16 * 8


def test_saved_bytes_leave_weights_out_and_count_storages_once() -> None:
    first, second = nn.Linear(16, 16, bias=False), nn.Linear(16, 4, bias=False)
    model = nn.Sequential(first, second)
    inputs = torch.ones(10, 16)
    # Each linear layer keeps its input: 10 x 16 numbers; weights are not counted.
    assert saved_bytes(model, lambda: model(inputs).sum()) == 2 * 10 * 16 * 4


def test_a_plan_of_an_experiment_says_memory_time_and_what_fits(tmp_path: Path) -> None:
    found = plan_training(
        make_experiment(tmp_path, batch_size=2, accumulate=3), torch.device("cpu")
    )
    assert [finding.kind for finding in found] == ["plan", "plan-memory"]
    assert "predicted" in found[0].message and "measured" in found[0].message
    assert "train.batch_size 6, train.accumulate 1" in found[1].message


def test_an_experiment_without_data_is_an_error(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    (tmp_path / "data/points.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"points\.json"):
        plan_training(experiment, torch.device("cpu"))


def test_what_is_kept_once_does_not_count_for_each_sample() -> None:
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))

    def saved(count: int) -> int:  # the second layer keeps its cast weights
        with torch.autocast("cpu", torch.bfloat16):
            return saved_bytes(model, lambda: model(torch.ones(count, 10, 16)).float().sum())

    once, each = split_bytes(saved)
    assert once >= 2 * 16 * 16  # the weights in bfloat16
    assert each == saved(3) - saved(2) and once + 5 * each == saved(5)


def room_for(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let batches of more samples run out of memory."""
    collate = PointData.collate

    def limited(data: PointData, samples: list[PointBatch]) -> PointBatch:
        if len(samples) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return collate(data, samples)

    monkeypatch.setattr(PointData, "collate", limited)


def test_a_batch_that_runs_out_of_memory_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(3, monkeypatch)
    found = plan_training(make_experiment(tmp_path, batch_size=8), torch.device("cpu"))
    assert "with 2 a micro-batch" in found[0].message
    assert found[1].severity == "error"
    assert "train.batch_size 2, train.accumulate 4" in found[1].message


def test_one_sample_that_runs_out_of_memory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(0, monkeypatch)
    found = plan_training(make_experiment(tmp_path), torch.device("cpu"))
    assert [(f.severity, f.kind) for f in found] == [("error", "plan-memory")]
    assert "not even one sample fits" in found[0].message
    with pytest.raises(torch.OutOfMemoryError):
        plan.measure_plan(make_experiment(tmp_path), torch.device("cpu"), 2**30)
