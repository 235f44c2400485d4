from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detr2d.config import Experiment, UserError
from detr2d.engine import fit
from detr2d.nonfinite import load_replay
from detr2d.replay import replay
from tests.helpers.toy_experiment import PointSystem, make_experiment


def broken_run(folder: Path, **train: int) -> tuple[Experiment, list[Path]]:
    """A run that meets sample 3, which makes y NaN, in every epoch; its replay files."""
    experiment = make_experiment(folder, **train)
    experiment = replace(experiment, system=PointSystem(poison="point3", spoil="factor"))
    with pytest.raises(FloatingPointError):
        fit(experiment)
    return experiment, sorted((experiment.work_dir / "replay").glob("*.pt"))


def test_a_replay_meets_the_same_samples_with_the_same_weights(tmp_path: Path) -> None:
    experiment, files = broken_run(tmp_path)
    content = load_replay(files[0])
    assert content["step"] == int(files[0].name[5:13]) - 1
    assert any("point3" in batch.tokens for batch in content["group"])
    found = replay(experiment, files[0])
    assert not found.finite
    lines = found.text.splitlines()
    assert lines[0] == f"step {content['step'] + 1} of process 0"
    assert any("point3" in line for line in lines)
    assert "  y = nan, not finite" in lines
    assert "the first output that is not finite is that of the model" in lines
    assert lines[-1].startswith("gradient of ")


def test_a_step_that_was_refused_for_its_gradient_alone_is_met_again(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    experiment = replace(experiment, system=PointSystem(poison="point3", spoil="slope"))
    with pytest.raises(FloatingPointError, match=r"^grad_norm is nan at step \d, samples .*point3"):
        fit(experiment)
    (file,) = (experiment.work_dir / "replay").glob("*.pt")
    found = replay(experiment, file)
    assert not found.finite and "grad_norm = nan, not finite" in found.text


def test_what_was_mended_is_finite(tmp_path: Path) -> None:
    experiment, files = broken_run(tmp_path)
    found = replay(replace(experiment, system=PointSystem()), files[0])
    assert found.finite and found.text.endswith("all is finite")


def test_only_so_many_files_are_kept(tmp_path: Path) -> None:
    _, files = broken_run(tmp_path, epochs=9, skip_nonfinite=7)
    assert len(files) == 5


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("code of a replay file was executed",))


@pytest.mark.parametrize("content", [{"group": [Harmful()]}, {"format": "other"}, 3])
def test_foreign_files_are_refused_by_name(tmp_path: Path, content: object) -> None:
    experiment = make_experiment(tmp_path)
    path = tmp_path / "foreign.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"foreign\.pt"):
        replay(experiment, path)


def test_files_of_another_system_are_refused_by_name(tmp_path: Path) -> None:
    experiment, files = broken_run(tmp_path)
    with pytest.raises(UserError, match=r"\.pt is of another system"):
        replay(replace(experiment, system=PointSystem(width=4)), files[0])
