"""What several processes do together: evaluate, skip, stop and resume, with shares of any size."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detr2d.checkpoints.files import list_states
from detr2d.engine import Training, fit
from detr2d.inference import evaluate, join_processes
from detr2d.processes import any_process
from detr2d.stopping import Stopped
from tests.helpers.processes import Team
from tests.helpers.toy_experiment import (
    PointData,
    PointEvaluator,
    Points,
    PointSystem,
    make_experiment,
)


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    with Team(2) as made:
        yield made


def claim_by_rank() -> list[bool]:
    accelerator = join_processes()
    return any_process(accelerator, accelerator.process_index == 1, False, True)


def test_what_one_process_claims_all_hear(team: Team) -> None:
    assert team.ask(claim_by_rank) == [[True, False, True]] * 2


@dataclass(frozen=True, kw_only=True)
class CountedData(PointData):
    """Any number of samples to evaluate; keeps what this process was asked to format."""

    count: int = 5
    """Samples."""

    def evaluation_set(self) -> Points:
        return Points(self.count, 99)

    def evaluator(self, output_dir: Path) -> PointEvaluator:
        seen = SEEN

        class Noting(PointEvaluator):
            def format(self, batch: Any, detections: Any) -> dict[str, Any]:
                seen.extend(batch.tokens)
                return super().format(batch, detections)

        return Noting(output_dir)


SEEN: list[str] = []


def evaluate_share(folder: Path, count: int) -> tuple[list[str], float]:
    experiment = make_experiment(folder, epochs=1, batch_size=2)
    data = CountedData(root=folder / "data", count=count)
    training = Training(replace(experiment, data=data))
    if training.accelerator.is_main_process:
        training.export()
    training.accelerator.wait_for_everyone()
    SEEN.clear()
    report = evaluate(training.experiment, experiment.work_dir / "model.safetensors")
    return list(SEEN), report.metrics["distance"]


@pytest.mark.parametrize("count", [1, 5, 6])
def test_every_sample_is_judged_once_whatever_the_shares(
    team: Team, count: int, tmp_path: Path
) -> None:
    """One of two processes may have nothing to do at all."""
    (first, one), (second, other) = team.ask(evaluate_share, tmp_path, count)
    assert sorted(first + second) == [f"point{index}" for index in range(count)]
    assert one == other
    assert one == pytest.approx(evaluate_share(tmp_path / "alone", count)[1])


def skip_together(folder: Path) -> dict[str, Any]:
    """Sample 3 breaks one process's loss; the other one has to skip that step too."""
    experiment = make_experiment(folder, epochs=2, skip_nonfinite=2, log_every=1)
    training = Training(replace(experiment, system=PointSystem(poison="point3")))
    done = [training.update(group) is not None for group in training.groups(6)]
    weights = torch.cat([p.detach().flatten() for p in training.bare_model.parameters()])
    return {"done": done, "skipped": training.skipped, "sum": float(weights.double().sum())}


def test_all_processes_skip_a_step_that_is_not_finite_in_one(team: Team, tmp_path: Path) -> None:
    first, second = team.ask(skip_together, tmp_path)
    assert first == second
    assert first["done"].count(False) == first["skipped"] == 2
    assert len(list((tmp_path / "run" / "replay").glob("*.pt"))) == 2  # of the process it broke


class Signalling(Points):
    """Sends SIGTERM to the process that reads its 15th sample, but to the second one alone."""

    count_read = 0

    def __getitem__(self, index: int) -> Any:
        self.count_read += 1
        if self.count_read == 15 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


class SignallingData(PointData):
    def training_set(self, seed: int) -> Points:
        return Signalling(22, seed)


def stop_together(folder: Path) -> tuple[str, str]:
    experiment = make_experiment(folder, epochs=4)
    stopped = replace(experiment, data=SignallingData(root=folder / "data"))
    try:
        fit(stopped)
    except Stopped as stop:
        return str(stop), list_states(experiment.work_dir)[-1].name
    return "was not stopped", ""


def test_a_signal_to_one_process_stops_all_at_the_same_step(team: Team, tmp_path: Path) -> None:
    (first, one), (second, other) = team.ask(stop_together, tmp_path)
    assert one == other == "step_00000004"  # 11 samples in 3 steps, then the 15th in the next
    assert "another process after step 4" in first
    assert "SIGTERM after step 4" in second
