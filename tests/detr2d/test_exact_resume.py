"""Stopping and resuming changes nothing: the promise of docs/reliability.md, on the toy configs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from detr2d.checkpoints.files import list_states, load_state
from detr2d.engine import fit
from detr2d.log import read_log
from tests.helpers.processes import Team
from tests.helpers.toy_configs import small_experiment

SETTINGS = {
    "batch_size": 1, "accumulate": 2, "ema_decay": 0.9, "workers": 2, "log_every": 3,
    "checkpoint_every": 2, "keep_checkpoints": 99, "warmup_steps": 3, "threads": 1,
}  # fmt: skip
TIMES = ("data_time", "step_time", "data_seconds", "seconds", "origin")


def run_both(name: str, folder: Path, settings: dict[str, Any], steps: int) -> dict[str, Any]:
    """Train ``steps`` straight, and once more stopped in an epoch and in the middle."""
    torch.set_num_threads(1)
    own_data = folder / os.environ.get("RANK", "alone")  # each process writes it for itself
    experiment = small_experiment(name, own_data, **SETTINGS, **settings)
    found = {}
    for run, stops in (("whole", [steps]), ("parts", [7, steps // 2, steps])):
        own = replace(experiment, work_dir=folder / run)
        for stop in stops:
            torch.rand(7)  # whatever ran before must not matter
            fit(own, resume=True, stop_after=stop)
        found[run] = {
            "state": load_state(list_states(own.work_dir)[-1])[0],
            "weights": load_file(own.work_dir / "model.safetensors"),
            "log": read_log(own.work_dir / "log.jsonl"),
        }
    return found


def assert_same(first: Any, second: Any, place: str = "") -> None:
    """Equal types, keys and values; tensors bit for bit."""
    assert type(first) is type(second), place
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second), place
    elif isinstance(first, dict):
        assert list(first) == list(second), place
        for key in first:
            assert_same(first[key], second[key], f"{place}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), place
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{place}/{index}")
    else:
        assert first == second, place


def without_times(value: Any) -> Any:
    """The value without measured seconds, and without the config, which names the work folder."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in TIMES}
        return {key: without_times(item) for key, item in kept.items()}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def assert_same_runs(found: dict[str, Any], steps: int) -> None:
    whole, parts = (without_times(found[run]) for run in ("whole", "parts"))
    assert whole["state"]["step"] == steps
    assert len(whole["log"]) >= steps // 3
    assert_same(whole, parts)


@pytest.mark.parametrize("name", ["dino", "detr3d"])
def test_a_stopped_run_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    """20 steps = 10 + stop + resume + 10, with two workers, accumulation and averaged weights."""
    assert_same_runs(run_both(name, tmp_path, {"epochs": 20}, 20), 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detr_panoptic", "deformable_detr", "petr", "petrv2"])
def test_the_other_toy_configs_too(name: str, tmp_path: Path) -> None:
    assert_same_runs(run_both(name, tmp_path, {"epochs": 20}, 20), 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dino", "detr3d"])
def test_two_processes_go_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    with Team(2) as team:
        found = team.ask(run_both, name, tmp_path, {"epochs": 20}, 20, seconds=600)
    assert_same_runs(found[0], 20)
