import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from detr2d.checkpoints.files import list_states, load_state, read_origin
from detr2d.config import Experiment, UserError
from detr2d.engine import Training, fit
from detr2d.log import read_log
from tests.helpers.toy_experiment import PointSystem, make_experiment


def weights(experiment: Experiment) -> dict[str, torch.Tensor]:
    return load_file(experiment.work_dir / "model.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_training_learns(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=60, lr=0.05, backbone_lr_factor=1.0)
    fit(experiment)
    losses = [record["loss"] for record in read_log(experiment.work_dir / "log.jsonl")]
    assert losses[0] > 3
    assert losses[-1] < 0.01


def test_the_log_holds_what_was_promised(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=2, log_every=4)
    fit(experiment)
    records = read_log(experiment.work_dir / "log.jsonl")
    assert [record["step"] for record in records] == [4, 6, 8, 12]  # 6 and 12 end epochs
    assert [record["epoch"] for record in records] == [0.6667, 1.0, 1.3333, 2.0]
    assert records[0].keys() == {
        *("step", "epoch", "lr", "loss", "grad_norm", "data_time", "step_time", "losses")
    }
    first = records[0]
    assert first["losses"]["x"] + first["losses"]["y"] == pytest.approx(first["loss"])
    assert first["step_time"] >= first["data_time"] >= 0


def test_windows_reach_across_epochs(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=9, log_every=20, checkpoint_every=100)
    fit(experiment)
    steps = [record["step"] for record in read_log(experiment.work_dir / "log.jsonl")]
    assert steps == [20, 40, 54]


@pytest.mark.parametrize("stop", [1, 8, 12])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_equals_one_that_never_stopped(
    tmp_path: Path, stop: int, workers: int
) -> None:
    settings = {"ema_decay": 0.9, "accumulate": 2, "epochs": 5, "workers": workers, "log_every": 1}
    whole = make_experiment(tmp_path / "whole", **settings)
    system = PointSystem(dropout=0.3)
    whole = replace(whole, system=system)
    parts = replace(whole, work_dir=tmp_path / "parts")
    fit(whole)
    fit(parts, stop_after=stop)
    assert [path.name for path in list_states(parts.work_dir)][-1] == f"step_{stop:08d}"
    torch.rand(5)
    fit(parts, resume=True)
    assert_same(weights(whole), weights(parts))
    for name in ("loss", "lr", "grad_norm", "losses"):
        columns = [
            [(record["step"], record[name]) for record in read_log(run.work_dir / "log.jsonl")]
            for run in (whole, parts)
        ]
        assert columns[0] == columns[1]


def test_the_number_of_workers_does_not_change_the_result(tmp_path: Path) -> None:
    experiments = [
        make_experiment(tmp_path / str(workers), workers=workers, epochs=2) for workers in (0, 1, 2)
    ]
    for experiment in experiments:
        fit(experiment)
    assert_same(weights(experiments[0]), weights(experiments[1]))
    assert_same(weights(experiments[0]), weights(experiments[2]))


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    fit(experiment)
    before = weights(experiment)
    fit(experiment, resume=True)
    assert_same(before, weights(experiment))


def test_accumulated_micro_batches_equal_one_large_batch(tmp_path: Path) -> None:
    large = make_experiment(tmp_path / "large", batch_size=8, epochs=2)
    small = make_experiment(tmp_path / "small", batch_size=4, accumulate=2, epochs=2)
    # 22 samples: the last group would weigh a batch of 4 like one of 2.
    for experiment in (large, small):
        (experiment.data.root / "points.json").write_text('{"count": 24}')  # type: ignore[attr-defined]
        fit(experiment)
    torch.testing.assert_close(weights(large), weights(small), rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_gradient_and_logs_its_norm_before(tmp_path: Path) -> None:
    training = Training(make_experiment(tmp_path, clip_norm=0.5))
    group = next(training.groups(1))
    seen: list[float] = []
    step = training.optimizer.step
    training.optimizer.step = lambda: seen.append(gradient_norm(training)) or step()
    values = training.update(group)
    assert values["grad_norm"] > 0.5
    assert seen == [pytest.approx(0.5, rel=1e-4)]


def gradient_norm(training: Training) -> float:
    gradients = [p.grad for p in training.bare_model.parameters() if p.grad is not None]
    return float(torch.stack([gradient.norm() for gradient in gradients]).norm())


def test_averaged_weights_are_exported_and_differ_from_the_trained(tmp_path: Path) -> None:
    plain = make_experiment(tmp_path / "plain")
    averaged = make_experiment(tmp_path / "averaged", ema_decay=0.99)
    fit(plain)
    fit(averaged)
    assert weights(plain).keys() == weights(averaged).keys()
    assert not torch.equal(weights(plain)["head.weight"], weights(averaged)["head.weight"])


def test_bfloat16_runs_the_model_only(tmp_path: Path) -> None:
    training = Training(make_experiment(tmp_path, precision="bfloat16"))
    inside: list[torch.dtype] = []
    training.bare_model.head.register_forward_hook(  # type: ignore[union-attr]
        lambda _module, _inputs, output: inside.append(output.dtype)
    )
    predictions = training.model(next(training.groups(1))[0])
    assert inside[0] == torch.bfloat16
    assert predictions.codes.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_a_loss_that_is_not_finite_names_term_step_and_samples(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=2, checkpoint_every=2)
    experiment = replace(experiment, system=PointSystem(poison="point3"))
    with pytest.raises(FloatingPointError, match=r"^y is nan at step \d, samples .*point3\b"):
        fit(experiment)
    assert not list_states(experiment.work_dir)


@pytest.mark.parametrize("spoil", ["term", "factor", "slope"])
def test_steps_that_are_not_finite_are_skipped_and_counted(
    tmp_path: Path, spoil: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = make_experiment(tmp_path, epochs=2, log_every=1, skip_nonfinite=2, ema_decay=0.5)
    experiment = replace(experiment, system=PointSystem(poison="point3", spoil=spoil))
    fit(experiment)
    assert all(bool(value.isfinite().all()) for value in weights(experiment).values())
    said = capsys.readouterr().out
    assert said.count("skipped step") == 2 and "skipped step 2 of at most 2" in said
    records = read_log(experiment.work_dir / "log.jsonl")
    assert len(records) == 10 and records[-1]["skipped"] == 2
    assert load_state(list_states(experiment.work_dir)[-1])[0]["skipped"] == 2


def test_one_skipped_step_more_than_allowed_stops_the_run(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=3, skip_nonfinite=2)
    experiment = replace(experiment, system=PointSystem(poison="point3"))
    with pytest.raises(FloatingPointError, match=r"^y is nan"):
        fit(experiment)
    assert list_states(experiment.work_dir)[-1].name == "step_00000012"


def test_a_skipped_step_changes_nothing_but_its_number(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, skip_nonfinite=1, ema_decay=0.5, accumulate=2)
    experiment = replace(experiment, system=PointSystem(norm="batch"))
    training = Training(experiment)
    groups = training.groups(9)
    training.update(next(groups))
    before = copy.deepcopy(
        [training.bare_model, training.average, training.optimizer.state_dict()["state"]]
    )
    first, second = next(groups)
    inputs = second.inputs.clone()
    inputs[0, 0] = float("nan")
    assert training.update([first, replace(second, inputs=inputs)]) is None
    assert (training.step, training.skipped) == (2, 1)
    for old, new in zip(before[:2], (training.bare_model, training.average), strict=True):
        torch.testing.assert_close(old.state_dict(), new.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(before[2], training.optimizer.state_dict()["state"], rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in training.bare_model.parameters())


def test_states_are_saved_by_epochs_and_at_the_end(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=5, checkpoint_every=2, keep_checkpoints=9)
    fit(experiment)
    names = [path.name for path in list_states(experiment.work_dir)]
    assert names == ["step_00000012", "step_00000024", "step_00000030"]


def test_exported_weights_say_where_they_come_from(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=1)
    origin = read_origin(fit(experiment))
    assert origin.classes == ("point",)
    assert origin.config["system"]["width"] == 8
    config = list_states(experiment.work_dir)[-1] / "config.json"
    assert json.loads(config.read_text()) == origin.config


def test_a_second_run_in_the_same_place_is_refused(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=1)
    fit(experiment)
    with pytest.raises(UserError, match=r"already holds a run \(step_00000006\).*--resume"):
        fit(experiment)


def test_resuming_with_another_system_is_refused(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=1)
    fit(experiment)
    other = replace(experiment, system=PointSystem(width=4))
    with pytest.raises(UserError, match=r"another system: system.width: saved 8, now 4"):
        fit(other, resume=True)


def test_settings_changed_on_resuming_take_effect(tmp_path: Path) -> None:
    settings = {"schedule": "constant", "lr": 0.01}
    experiment = make_experiment(tmp_path, epochs=2, **settings)
    fit(experiment, stop_after=6)
    train = replace(experiment.train, lr=0.004, weight_decay=0.5)
    training = Training(replace(experiment, train=train))
    training.restore(list_states(experiment.work_dir)[-1])
    training.update(next(training.groups(7)))
    groups = training.optimizer.param_groups
    assert {round(group["lr"], 9) for group in groups} == {0.004, 0.0004}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.5}
    assert {int(state["step"]) for state in training.optimizer.state.values()} == {7}


def test_an_average_can_begin_on_resuming(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=2)
    fit(experiment)
    before = weights(experiment)
    train = replace(experiment.train, ema_decay=0.9)
    fit(replace(experiment, train=train), resume=True)
    assert_same(before, weights(experiment))


def test_resuming_from_a_torn_state_is_refused_by_name(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=1)
    fit(experiment)
    state = list_states(experiment.work_dir)[-1] / "state.pt"
    state.write_bytes(state.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"step_00000006/state\.pt is truncated"):
        fit(experiment, resume=True)


def test_resuming_falls_back_to_the_state_before_a_torn_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make_experiment(tmp_path / "whole", epochs=3)
    fit(whole)
    torn = replace(whole, work_dir=tmp_path / "torn")
    fit(torn, stop_after=12)
    state = list_states(torn.work_dir)[-1] / "state.pt"
    state.write_bytes(state.read_bytes()[:-50])
    fit(torn, resume=True)
    said = capsys.readouterr().out
    assert re.search(r"refused: .*step_00000012.*truncated.*going back to step_00000006", said)
    assert_same(weights(whole), weights(torn))


def test_checkpoints_within_an_epoch_change_nothing_else(tmp_path: Path) -> None:
    plain = make_experiment(tmp_path / "plain", epochs=2, log_every=5)
    often = make_experiment(
        tmp_path / "often", epochs=2, log_every=5, checkpoint_steps=4, keep_checkpoints=9
    )
    fit(plain)
    fit(often)
    names = [path.name for path in list_states(often.work_dir)]
    assert names == ["step_00000004", "step_00000006", "step_00000008", "step_00000012"]
    assert_same(weights(plain), weights(often))
    steps = [
        [(record["step"], record["loss"]) for record in read_log(run.work_dir / "log.jsonl")]
        for run in (plain, often)
    ]
    assert steps[0] == steps[1]


def test_resuming_needs_as_many_steps_per_epoch(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, epochs=4)
    fit(experiment, stop_after=12)
    other = replace(experiment, train=replace(experiment.train, batch_size=11))
    with pytest.raises(UserError, match="of 6 steps per epoch, now it would be 2"):
        fit(other, resume=True)
    halved = replace(experiment.train, batch_size=2, accumulate=2)
    fit(replace(experiment, train=halved), resume=True)
    assert list_states(experiment.work_dir)[-1].name == "step_00000024"


def test_missing_data_is_a_user_error(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    (tmp_path / "data" / "points.json").unlink()
    with pytest.raises(UserError, match=r"holds no points\.json"):
        fit(experiment)


def test_nothing_is_learnt_from_no_samples(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    (tmp_path / "data" / "points.json").write_text('{"count": 0}')
    with pytest.raises(UserError, match="no samples"):
        fit(experiment)


def test_only_the_named_part_changes(tmp_path: Path) -> None:
    first = make_experiment(tmp_path / "first", epochs=1)
    start = fit(first)
    settings = replace(first.train, epochs=2, start_from=start, only=("head",), weight_decay=0.1)
    second = fit(replace(first, train=settings, work_dir=tmp_path / "second"))
    before, after = load_file(start), load_file(second)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("head.") for name in changed)
