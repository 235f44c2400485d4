"""Sharded training (FSDP2) does what replicated training does, on two gloo processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from detr2d import sharding
from detr2d.backbones.swin import SwinConfig
from detr2d.checkpoints.files import list_states, load_state
from detr2d.config import Experiment, TrainConfig, UserError
from detr2d.engine import Training, fit
from detr2d.inference import evaluate, join_processes
from detr2d.log import read_log
from detr2d.optim import build_optimizer
from detr2d.replay import replay
from detr2d.sharding import blocks, gathered, piece, whole
from tests.detr2d.test_exact_resume import assert_same, assert_same_runs, run_both, without_times
from tests.helpers.hostile import meet
from tests.helpers.processes import Team
from tests.helpers.toy_configs import small_experiment, small_systems
from tests.helpers.toy_experiment import PointSystem, make_experiment

SETTINGS: dict[str, Any] = {
    "epochs": 4, "accumulate": 2, "ema_decay": 0.9, "clip_norm": 0.5, "log_every": 1, "threads": 1,
}  # fmt: skip
SHRUNK: dict[str, Any] = {
    "batch_size": 1, "accumulate": 2, "ema_decay": 0.9, "workers": 0, "epochs": 20, "threads": 1,
    "optimizer": "adamw", "lr": 1e-4, "warmup_steps": 2, "precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    with Team(2) as made:
        yield made


def points(folder: Path, **train: Any) -> Experiment:
    """22 points in batches of 3: the last step of an epoch is smaller; 2 and 1 rows to cut."""
    experiment = make_experiment(folder, **{**SETTINGS, "batch_size": 3, **train})
    return replace(experiment, system=PointSystem(norm="batch", dropout=0.1, width=7))


def shrunk(name: str, folder: Path, **train: Any) -> Experiment:
    """A toy system of ours with every block on its own, on data of this process."""
    sharding.UNIT = 1
    experiment = small_experiment(name, folder / os.environ["RANK"], **{**SHRUNK, **train})
    return replace(experiment, work_dir=folder / "run")


def trained(experiment: Experiment, steps: int) -> dict[str, Any]:
    """What ``steps`` steps leave behind, put together; ``held`` is this process's share of it."""
    training = Training(experiment)
    rows = [training.update(group) for group in training.groups(steps)]
    models = [training.bare_model, *([training.average] if training.average else [])]
    kept = [p for model in models for p in model.parameters()]
    moments = training.optimizer.state_dict()["state"].values()
    kept += [value for state in moments for value in state.values() if value.dim()]
    return {
        "losses": [row["loss"] for row in rows if row],
        "norms": [row["grad_norm"] for row in rows if row],
        "states": [gathered(model.state_dict()) for model in models],
        "means": [
            gathered(state["exp_avg"])
            for _, state in sorted(training.optimizer.state_dict()["state"].items())
            if "exp_avg" in state
        ],
        "held": sum(piece(p).numel() for p in kept) / sum(p.numel() for p in kept),
    }


def both_ways(experiment: Experiment, steps: int) -> list[dict[str, Any]]:
    return [trained(as_said(experiment, sharding=way), steps) for way in ("none", "full")]


def shrunk_both_ways(name: str, folder: Path, steps: int) -> list[dict[str, Any]]:
    return both_ways(shrunk(name, folder), steps)


def as_said(experiment: Experiment, **train: Any) -> Experiment:
    return replace(experiment, train=replace(experiment.train, **train))


def assert_alike(runs: list[dict[str, Any]], tolerance: float) -> None:
    whole, cut = runs
    torch.testing.assert_close(cut["losses"], whole["losses"], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(cut["norms"], whole["norms"], rtol=10 * tolerance, atol=0)
    for ours, theirs in zip(cut["states"], whole["states"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=10 * tolerance, atol=10 * tolerance)


def test_the_same_losses_norms_weights_and_averages(team: Team, tmp_path: Path) -> None:
    """Twelve steps, three of them smaller; the norm is of all gradients, and clips them."""
    first, second = team.ask(both_ways, points(tmp_path), 12)
    assert_alike(first, 1e-5)
    assert min(first[1]["norms"]) > SETTINGS["clip_norm"]
    assert first[1]["norms"] == second[1]["norms"]
    assert first[1]["held"] + second[1]["held"] == pytest.approx(1)
    assert 0.35 < second[1]["held"] < 0.5  # an odd row is the first one's
    assert first[0]["held"] == 1


def test_bfloat16_is_the_same_up_to_its_rounding(team: Team, tmp_path: Path) -> None:
    first, _ = team.ask(both_ways, points(tmp_path, precision="bfloat16"), 6)
    assert_alike(first, 1e-3)


def stopped_and_resumed(experiment: Experiment, ways: tuple[str, str]) -> list[Any]:
    """Seven steps, and the same with a stop after three; the state, weights and log of both."""
    whole, parts = (replace(experiment, work_dir=experiment.work_dir / run) for run in "ab")
    fit(as_said(whole, sharding=ways[0]), stop_after=7)
    fit(as_said(parts, sharding=ways[0]), stop_after=3)
    fit(as_said(parts, sharding=ways[1]), stop_after=7, resume=True)
    return [
        without_times(
            [
                load_state(list_states(run.work_dir)[-1])[0],
                load_file(run.work_dir / "model.safetensors"),
                read_log(run.work_dir / "log.jsonl"),
            ]
        )
        for run in (whole, parts)
    ]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_goes_on_bit_for_bit(team: Team, tmp_path: Path, optimizer: str) -> None:
    experiment = points(tmp_path, optimizer=optimizer, evaluate_every=1)
    (whole, parts), _ = team.ask(stopped_and_resumed, experiment, ("full", "full"))
    assert whole[0]["step"] == 7
    assert sum("metrics" in line for line in whole[2]) >= 1
    assert_same(whole, parts)


@pytest.mark.parametrize("ways", [("full", "none"), ("none", "full")])
def test_files_know_nothing_of_sharding(team: Team, tmp_path: Path, ways: tuple[str, str]) -> None:
    """A run may go on the other way: the same values up to the order of sums."""
    (whole, parts), _ = team.ask(stopped_and_resumed, points(tmp_path), ways)
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-5, atol=1e-5)


def last_judged(experiment: Experiment) -> dict[str, Any]:
    return read_log(fit(experiment).parent / "log.jsonl")[-1]["metrics"]


@pytest.mark.parametrize("way", ["none", "full"])
def test_one_process_evaluates_and_continues_what_two_have_trained(
    team: Team, tmp_path: Path, way: str
) -> None:
    """Validation judged the weights that were exported, with the statistics exported with them."""
    first, second = team.ask(last_judged, points(tmp_path, sharding=way, evaluate_every=4))
    alone = points(tmp_path)
    assert evaluate(alone, tmp_path / "run" / "model.safetensors").metrics == first == second
    training = Training(as_said(alone, accumulate=4))  # as many steps as two processes had
    training.resume()
    assert training.step == training.schedule.num_steps
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert_same(
        dict(sorted(training.best_model.state_dict().items())), dict(sorted(weights.items()))
    )


def skipping(experiment: Experiment) -> list[bool]:
    training = Training(experiment)
    return [training.update(group) is not None for group in training.groups(6)]


def test_a_step_that_is_not_finite_is_skipped_by_all_and_kept_whole(
    team: Team, tmp_path: Path
) -> None:
    experiment = points(tmp_path, sharding="full", skip_nonfinite=2, accumulate=1)
    experiment = replace(experiment, system=PointSystem(poison="point3"))
    first, second = team.ask(skipping, experiment)
    assert first == second
    assert first.count(False) == 2
    files = sorted((tmp_path / "run" / "replay").glob("*.pt"))
    assert not replay(experiment, files[0]).finite


def test_one_process_alone_says_that_nothing_is_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = points(tmp_path)
    cut = trained(as_said(experiment, sharding="full"), 3)
    assert "train.sharding full: one process alone holds everything" in capsys.readouterr().out
    assert_same(cut, trained(experiment, 3))


@dataclass(frozen=True, kw_only=True)
class Scaled(PointSystem):
    """A model with a single number among its parameters."""

    def build(self, classes: tuple[str, ...]) -> Any:
        model = super().build(classes)
        model.head.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
        return model


def refused(experiment: Experiment) -> str:
    try:
        Training(experiment)
    except UserError as error:
        return str(error)
    return "was not refused"


def test_single_numbers_are_refused_by_name(team: Team, tmp_path: Path) -> None:
    experiment = replace(points(tmp_path, sharding="full"), system=Scaled())
    told = "train.sharding full cannot cut single numbers: head.scale"
    assert team.ask(refused, experiment) == [told, told]


def test_blocks_are_the_items_of_lists_that_are_large_enough() -> None:
    swin = SwinConfig(channels=8, depths=(1, 2), heads=(1, 2), window=4, out_stages=(2,)).build()
    names = {module: name for name, module in swin.named_modules()}
    inner = [names[block] for block in blocks(swin, 3000)]
    assert inner == ["layers.1.blocks.1", "layers.1.blocks.0"]
    outer = [names[block] for block in blocks(swin, 1000)]
    assert outer == ["layers.1.blocks.1", "layers.1.blocks.0", "layers.0"]
    assert blocks(swin, 10**9) == []


def orthogonalised() -> list[Tensor]:
    """How one Muon step moves a matrix, whole and cut."""
    moves = []
    for cut in (False, True):
        torch.manual_seed(3)
        model = nn.Linear(12, 9, bias=False)
        before = model.weight.detach().clone()
        if cut:
            sharding.shard([model], join_processes())
        optimizer = build_optimizer(model, TrainConfig(optimizer="muon", lr=1.0, weight_decay=0.0))
        model(torch.randn(40, 12)).square().sum().backward()
        optimizer.step()
        moves.append(whole(model.weight.detach()) - before)
    return moves


def test_muon_takes_a_cut_matrix_as_a_whole_one(team: Team) -> None:
    """In bfloat16, as it always computes: every direction moves alike, and no piece on its own."""
    (one, cut), _ = team.ask(orthogonalised)
    assert float((cut - one).norm() / one.norm()) < 0.05
    lengths = torch.linalg.svdvals(cut)
    assert float(lengths.max() / lengths.min()) < 1.6


SYSTEMS = ["dino", "detr3d", "deformable_detr", "detr_panoptic", "petr"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_real_systems_train_alike_with_every_block_on_its_own(
    team: Team, tmp_path: Path, name: str
) -> None:
    """Sums in another order are another last bit, and a step's is the next one's input.

    AdamW divides a gradient near zero by itself, so weights may part by whole steps; its running
    means hold the gradients of all steps as they were.
    """
    first, second = team.ask(shrunk_both_ways, name, tmp_path, 4, seconds=300)
    assert_alike(first, 1e-3)
    torch.testing.assert_close(first[1]["losses"][0], first[0]["losses"][0], rtol=1e-5, atol=0)
    whole, cut = (torch.cat([mean.flatten() for mean in run["means"]]) for run in first)
    assert len(whole) > 1000
    assert float((cut - whole).norm() / whole.norm()) < 1e-4
    assert first[1]["held"] < 0.55 and second[1]["held"] < 0.55


def frozen(folder: Path) -> list[dict[str, Any]]:
    """The decoder alone is trained, under frozen batch norm: most blocks have no gradient."""
    experiment, system = shrunk("dino", folder, only=("decoder",)), small_systems()["dino"]
    backbone = replace(system.backbone, norm="frozen")  # type: ignore[attr-defined]
    system = replace(system, backbone=backbone)  # type: ignore[call-arg]
    return both_ways(replace(experiment, system=system), 4)


@pytest.mark.slow
def test_frozen_norms_and_frozen_parts_stay_as_they_are(team: Team, tmp_path: Path) -> None:
    first, _ = team.ask(frozen, tmp_path, seconds=300)
    assert_alike(first, 1e-3)


def run_both_cut(name: str, folder: Path) -> dict[str, Any]:
    sharding.UNIT = 1
    return run_both(name, folder, {"epochs": 20, "sharding": "full"}, 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dino", "detr3d"])
def test_real_systems_go_on_bit_for_bit(team: Team, tmp_path: Path, name: str) -> None:
    assert_same_runs(team.ask(run_both_cut, name, tmp_path, seconds=600)[0], 20)


CASES = ["no object in one", "no object in all", "a NaN image"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "case"),
    [(n, c) for n in ("dino", "panoptic") for c in CASES]
    + [("detr3d", c) for c in (*CASES, "all cameras absent in all")],
)
def test_a_process_with_a_hostile_batch_trains_along(
    team: Team, tmp_path: Path, name: str, case: str
) -> None:
    answers = team.ask(meet, name, case, str(tmp_path), "full", seconds=120)
    for found in answers:
        assert found["finite"]
        assert found["skipped"] == (2 if case == "a NaN image" else 0)
    assert answers[0]["digest"] == answers[1]["digest"]
    assert answers[0]["evaluation"] == answers[1]["evaluation"]
