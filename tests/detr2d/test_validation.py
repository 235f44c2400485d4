from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from detr2d.checkpoints.files import list_states
from detr2d.config import Experiment, TrainConfig, UserError
from detr2d.engine import Training, fit
from detr2d.inference import evaluate
from detr2d.log import read_log
from detr2d.validation import Validation, headline
from tests.helpers.toy_experiment import PointData, Points, PointSystem, make_experiment
from tests.tools.test_train import run, write_config


def make(folder: Path, **train: Any) -> Experiment:
    """Six steps an epoch, with dropout and averaged weights."""
    settings = {"epochs": 5, "ema_decay": 0.8, "evaluate_every": 2, "log_every": 4, **train}
    return replace(make_experiment(folder, **settings), system=PointSystem(dropout=0.3))


def lines(experiment: Experiment, kind: str) -> list[dict[str, Any]]:
    records = read_log(experiment.work_dir / "log.jsonl")
    return [record for record in records if kind in record]


def test_figures_are_logged_every_so_many_epochs_and_at_the_end(tmp_path: Path) -> None:
    experiment = make(tmp_path)
    weights = fit(experiment)
    found = lines(experiment, "metrics")
    assert [(record["step"], record["epoch"]) for record in found] == [(12, 2), (24, 4), (30, 5)]
    assert [set(record["metrics"]) for record in found] == [{"distance"}] * 3
    report = evaluate(experiment, weights)
    assert found[-1]["metrics"] == report.metrics  # of the averaged weights, as exported
    assert (experiment.work_dir / "validation" / "results.json").is_file()


def test_without_the_setting_nothing_is_judged(tmp_path: Path) -> None:
    experiment = make(tmp_path, evaluate_every=0)
    fit(experiment)
    assert lines(experiment, "metrics") == []


def test_judging_leaves_the_training_as_it_is(tmp_path: Path) -> None:
    judged, alone = make(tmp_path / "judged", workers=1), make(tmp_path / "alone", evaluate_every=0)
    weights = [load_file(fit(experiment)) for experiment in (judged, alone)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    first = [lines(experiment, "loss")[:3] for experiment in (judged, alone)]  # up to step 12
    assert [r["losses"] for r in first[0]] == [r["losses"] for r in first[1]]


def test_judging_touches_neither_modes_nor_random_states(tmp_path: Path) -> None:
    training = Training(make(tmp_path))
    before = torch.get_rng_state()
    first = training.validation.record(training.best_model, 12)
    assert torch.equal(torch.get_rng_state(), before)
    assert training.bare_model.training
    assert first == training.validation.record(training.best_model, 12)


@pytest.mark.parametrize("stop", [11, 12, 13, 24])
def test_a_resumed_run_has_the_lines_of_one_that_never_stopped(tmp_path: Path, stop: int) -> None:
    whole, parts = make(tmp_path / "whole"), make(tmp_path / "parts")
    fit(whole)
    fit(parts, stop_after=stop)
    fit(parts, resume=True)
    assert lines(whole, "metrics") == lines(parts, "metrics")


@pytest.mark.parametrize("step", [12, 30])
def test_a_run_that_died_while_it_judged_has_lost_nothing(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = make(tmp_path / "whole"), make(tmp_path / "parts")
    fit(whole)
    record = Validation.record

    def die(self: Validation, model: Any, now: int) -> dict[str, Any]:
        if now == step:
            raise MemoryError
        return record(self, model, now)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Validation, "record", die)
        fit(parts)
    assert list_states(parts.work_dir)[-1].name == f"step_{step:08d}"
    fit(parts, resume=True)
    assert lines(whole, "metrics") == lines(parts, "metrics")


@pytest.mark.slow
def test_two_processes_judge_every_sample_once(tmp_path: Path) -> None:
    words = ["tools/train.py", write_config(tmp_path), "--train.evaluate-every", 1]
    two = run(*words, "--train.batch-size", 2, "--work-dir", tmp_path / "two", processes=2)
    assert two.returncode == 0, two.stderr
    assert run(*words).returncode == 0
    found = [
        [
            r["metrics"]["distance"]
            for r in read_log(tmp_path / name / "log.jsonl")
            if "metrics" in r
        ]
        for name in ("two", "run")
    ]
    assert len(found[0]) == 2
    torch.testing.assert_close(*map(torch.tensor, found), rtol=1e-4, atol=1e-5)
    assert len(json.loads((tmp_path / "two" / "validation" / "results.json").read_text())) == 7


@dataclass(frozen=True, kw_only=True)
class NothingToJudge(PointData):
    """Points to train on only."""

    def evaluation_set(self) -> Points:
        return Points(0, 99)


def test_an_empty_evaluation_set_is_named_before_training(tmp_path: Path) -> None:
    experiment = make(tmp_path)
    with pytest.raises(UserError, match=r"train\.evaluate_every needs an evaluation set"):
        fit(replace(experiment, data=NothingToJudge(root=experiment.data.root)))
    with pytest.raises(ValueError, match=r"train\.evaluate_every must not be negative, got -1"):
        TrainConfig(evaluate_every=-1)


def test_figures_of_single_classes_are_left_out() -> None:
    named = {"mAP": 0.1, "AP/car": 0.2, "segm/AP": 0.3, "segm/AP/car": 0.4, "PQ/sky": 0.5}
    assert headline(named) == {"mAP": 0.1, "segm/AP": 0.3}
