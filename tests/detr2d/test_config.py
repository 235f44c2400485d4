import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from detr2d.config import (
    Experiment,
    TrainConfig,
    UserError,
    describe_difference,
    load_experiment,
    parse_command,
    parse_experiment,
    to_json,
)
from tests.helpers.toy_experiment import PointSystem, make_experiment, write_config
from tools.evaluate import Options


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def test_a_config_file_gives_its_experiment(config: Path) -> None:
    experiment = load_experiment(config)
    assert experiment.system == PointSystem()
    assert experiment.train.batch_size == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "must bind experiment = Experiment"),
        ("experiment = 3", "found experiment = 3"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("experiment = (", "line 1"),
        ("\nfrom detr2d.config import TrainConfig\nTrainConfig(epoch=3)", "epoch"),
        (
            "from detr2d.config import *\nexperiment = Experiment(system=1, data=2)",
            "system must be",
        ),
    ],
)
def test_a_broken_config_is_told_in_one_message(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        load_experiment(path)
    assert says in str(error.value)


def test_a_setting_of_the_wrong_type_in_the_config_is_refused(config: Path) -> None:
    config.write_text(config.read_text().replace("work_dir=Path(", "work_dir=str("))
    with pytest.raises(UserError, match=r"work-dir.*Path.*str"):
        parse_experiment([str(config)])


def test_the_command_line_changes_settings_of_concrete_classes(config: Path) -> None:
    words = "--train.lr 1e-4 --system.width=5 --work-dir there --train.step-epochs 3 5"
    experiment = parse_experiment([str(config), *words.split(), "--train.schedule", "step"])
    before = load_experiment(config)
    train = replace(before.train, lr=1e-4, schedule="step", step_epochs=(3, 5))
    system = replace(before.system, width=5)  # type: ignore[call-arg]
    assert experiment == replace(before, system=system, train=train, work_dir=Path("there"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--train.lrr 3", "perhaps you meant --train.lr FLOAT"),
        ("--lr 3", "perhaps you meant --train.lr FLOAT"),
        ("--system.widht=3", "perhaps you meant --system.width INT"),
        ("--train.lr fast", "could not convert string to float: 'fast'; expected --train.lr FLOAT"),
        ("--train.schedule sine", "Expected one of ('cosine', 'step', 'constant')"),
        ("--train.epochs", "Missing value for argument '--train.epochs'"),
        ("--train.epochs 0", "train.epochs must be at least 1, got 0"),
        ("--train.ema-decay 1", "train.ema_decay must lie in [0, 1), got 1.0"),
        ("--train.schedule step", "needs train.step_epochs"),
        ("stray", "Unrecognized options: stray"),
    ],
)
def test_a_wrong_command_line_says_what_was_expected(config: Path, words: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        parse_experiment([str(config), *words.split()])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_help_shows_every_setting_with_the_values_of_the_config(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_experiment([str(config), "--help"])
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert stop.value.code == 0
    assert "--system.width INT Hidden channels. (default: 8)" in shown
    assert "Samples per process and micro-batch. (default: 4)" in shown  # 1 without this config
    assert "--work-dir PATH" in shown


def test_options_of_a_tool_stand_beside_the_settings(config: Path) -> None:
    argv = [str(config), "weights.safetensors", "--output-dir", "there", "--system.width", "3"]
    experiment, options = parse_command(argv, Options(checkpoint=tyro.MISSING))
    assert experiment.system == PointSystem(width=3)
    assert options == Options(checkpoint=Path("weights.safetensors"), output_dir=Path("there"))


def test_a_missing_required_option_is_named(config: Path) -> None:
    with pytest.raises(UserError, match="Exported weights"):
        parse_command([str(config)], Options(checkpoint=tyro.MISSING))


@pytest.mark.parametrize("argv", [[], ["--train.lr", "3"], ["nothing.py"]])
def test_a_missing_config_is_asked_for(argv: list[str]) -> None:
    with pytest.raises(UserError, match=r"expected .*CONFIG|expected a Python file"):
        parse_experiment(argv)


def test_json_of_an_experiment_names_classes_and_values(tmp_path: Path) -> None:
    written = to_json(make_experiment(tmp_path))
    assert written == json.loads(json.dumps(written))
    assert written["system"]["class"] == "tests.helpers.toy_experiment.PointSystem"
    assert written["train"]["step_epochs"] == []
    assert written["work_dir"] == str(tmp_path / "run")


def test_differences_are_named_by_dotted_key(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    other = Experiment(
        system=PointSystem(width=9), data=experiment.data, train=TrainConfig(), work_dir=Path("x")
    )
    lines = describe_difference(to_json(experiment), to_json(other))
    assert "system.width: saved 8, now 9" in lines
    assert f"work_dir: saved {tmp_path / 'run'}, now x" in lines
    assert not describe_difference(to_json(experiment), to_json(experiment))


def test_a_setting_that_one_side_lacks_is_a_difference() -> None:
    assert describe_difference({"a": 1}, {"b": 2}) == [
        "a: saved 1, now not set",
        "b: saved not set, now 2",
    ]
