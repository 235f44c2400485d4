"""Checkpoints are recognised, and what would fail to load is said."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from detr2d.checkpoints.files import STATE_FILE, Origin, export_weights, save_state
from detr2d.config import load_experiment, to_json
from detr2d.doctor.checkpoints import examine_checkpoint
from detr2d.doctor.findings import Finding
from tests.detr2d.checkpoints.test_convert import official_state, write_config
from tests.helpers.findings import alarms, kinds


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, "small", classes=("a", "b"))


def official(config: Path, change: Any = None, name: str = "official.pth") -> Path:
    state = official_state(config)
    content = {"model": state, "args": argparse.Namespace(lr=1), "epoch": 3}
    if change is not None:
        change(state)
    torch.save(content, config.with_name(name))
    return config.with_name(name)


def ours(config: Path, change: Any = None, version: str = "0.1.0") -> Path:
    experiment = load_experiment(config)
    classes = experiment.data.class_names()
    weights = experiment.system.build(classes).state_dict()
    if change is not None:
        change(weights)
    path = config.with_name("model.safetensors")
    export_weights(path, weights, Origin(to_json(experiment), classes, version))
    return path


def message(findings: list[Finding], kind: str) -> str:
    return next(f"{f.message} {f.advice}" for f in findings if f.kind == kind)


def test_official_weights_are_recognised(config: Path) -> None:
    deep = write_config(config.parent, "deep", depth=18, classes=("a", "b"))
    found = examine_checkpoint(official(config), [deep, config])
    assert alarms(found) == set()
    assert "official weights" in message(found, "checkpoint")
    assert "small.py" in message(found, "checkpoint")


def test_our_weights_are_recognised(config: Path) -> None:
    deep = write_config(config.parent, "deep", depth=18, classes=("a", "b"))
    found = examine_checkpoint(ours(config), [deep, config])
    assert alarms(found) == set()
    assert "DETRConfig, 2 classes" in message(found, "checkpoint")
    assert "small.py" in message(found, "fits")


def test_a_training_state_is_recognised(config: Path, tmp_path: Path) -> None:
    experiment = load_experiment(config)
    origin = Origin(to_json(experiment), ("a", "b"))
    model = experiment.system.build(("a", "b")).state_dict()
    state = {"model": model, "optimizer": {}, "steps_per_epoch": 4}
    folder = save_state(tmp_path, 7, state, origin, keep=2)
    found = examine_checkpoint(folder, [])
    assert alarms(found) == set() and "step 7" in message(found, "checkpoint")
    assert kinds(examine_checkpoint(folder / STATE_FILE, [])) == kinds(found)
    (folder / STATE_FILE).write_bytes((folder / STATE_FILE).read_bytes()[:-900])
    assert alarms(examine_checkpoint(folder, [])) == {"checkpoint-unreadable"}


def spoil(state: dict[str, Any]) -> None:
    state["class_embed.bias"][0] = float("nan")


def inflate(state: dict[str, Any]) -> None:
    state["class_embed.weight"][0, 0] = 1e9


def zero(state: dict[str, Any]) -> None:
    for tensor in state.values():
        tensor.zero_()


def rename(state: dict[str, Any]) -> None:
    state["class_embed.bios"] = state.pop("class_embed.bias")


def other_classes(state: dict[str, Any]) -> None:
    state["class_embed.weight"], state["class_embed.bias"] = torch.ones(9, 16), torch.ones(9)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (spoil, "weights-not-finite"),
        (inflate, "weights-huge"),
        (zero, "weights-zero"),
        (rename, "does-not-fit"),
        (lambda state: state.pop("query_embed.weight"), "does-not-fit"),
        (other_classes, "other-classes"),
    ],
)
def test_a_fault_in_official_weights_is_found(change: Any, kind: str, config: Path) -> None:
    assert alarms(examine_checkpoint(official(config, change), [config])) == {kind}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x00\x01garbage", "cut off"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_that_are_no_checkpoint_are_called_what_they_are(
    content: bytes, words: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(content)
    found = examine_checkpoint(path, [])
    assert alarms(found) == {"checkpoint-unreadable"}
    assert words in found[0].advice


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_truncated_file_is_found(share: float, config: Path) -> None:
    for path in (official(config), ours(config)):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        assert alarms(examine_checkpoint(path, [config])) == {"checkpoint-unreadable"}


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


def test_a_checkpoint_that_would_run_something_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    found = examine_checkpoint(tmp_path / "trap.pth", [])
    assert "would run" in found[0].message and found[0].severity == "error"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda w: w.pop("class_head.bias"), "weights-misfit"),
        (lambda w: w.update({"class_head.bias": torch.ones(99)}), "weights-misfit"),
        (lambda w: w.update(extra=torch.ones(1)), "weights-misfit"),
        (lambda w: w["class_head.bias"].fill_(float("inf")), "weights-not-finite"),
    ],
)
def test_a_fault_in_our_weights_is_found(change: Any, kind: str, config: Path) -> None:
    assert alarms(examine_checkpoint(ours(config, change), [config])) == {kind}


def test_weights_of_a_newer_version_and_of_another_config_are_told(config: Path) -> None:
    deep = write_config(config.parent, "deep", depth=18, classes=("a", "b"))
    assert alarms(examine_checkpoint(ours(config, version="9.0.0"), [config])) == {"newer-version"}
    found = examine_checkpoint(ours(config), [deep])
    assert alarms(found) == {"does-not-fit"}
    assert "depth: saved 10, now 18" in message(found, "does-not-fit")
