from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detr2d.checkpoints.official import read_official

STATE = {"a.weight": torch.arange(3.0), "b": torch.tensor(2)}
EMA = {"a.weight": torch.arange(3.0) + 9, "b": torch.tensor(2)}


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def write(folder: Path, content: Any, **options: Any) -> Path:
    path = folder / "official.pth"
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"model": STATE, "epoch": 3},
        {"model": STATE, "args": argparse.Namespace(lr=1e-4), "best": np.float64(0.42)},
        {"model": STATE, "ema_model": EMA},
        {"state_dict": STATE, "meta": {"epoch": 12}},
        {"ema_model": STATE},
        {"model": {f"module.{name}": tensor for name, tensor in STATE.items()}},
    ],
    ids=["plain", "model", "with options", "model and ema", "state_dict", "ema", "parallel"],
)
def test_every_layout_is_recognised(tmp_path: Path, content: Any) -> None:
    found = read_official(write(tmp_path, content))
    assert set(found) == set(STATE) and torch.equal(found["a.weight"], STATE["a.weight"])


def test_averaged_weights_are_taken_when_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, {"model": STATE, "ema_model": EMA})
    assert torch.equal(read_official(path, averaged=True)["a.weight"], EMA["a.weight"])
    with pytest.raises(ValueError, match="holds no averaged weights"):
        read_official(write(tmp_path, {"model": STATE}), averaged=True)


def test_files_of_the_old_format_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, {"model": STATE}, _use_new_zipfile_serialization=False)
    assert set(read_official(path)) == set(STATE)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"official.pth is not read: it would run posix.mkdir"):
        read_official(write(tmp_path, {"model": STATE, "extra": Evil()}))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 truncated"])
def test_broken_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.pth is not read"):
        read_official(path)


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no weights: expected one of .*, found epoch"):
        read_official(write(tmp_path, {"epoch": 3}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing.pth does not exist"):
        read_official(tmp_path / "nothing.pth")


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(5, "I/O"), MemoryError()])
def test_errors_of_the_machine_are_not_taken_for_damage(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, STATE)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        read_official(path)
