"""Files of a run: training states to continue from and exported weights to use.

Both are written to a temporary name, flushed to disk and renamed, so that a name that exists is a
whole file. Neither is ever read in a way that could execute code.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import detr2d

STATE_FORMAT = "detr2d training state 1"
STATE_FILE = "state.pt"
WEIGHTS_FILE = "model.safetensors"
BROKEN = (
    RuntimeError, EOFError, pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError,
    AttributeError, AssertionError, OverflowError, struct.error,
)  # fmt: skip
"""What torch raises for checkpoints that are cut off or damaged; the disk's errors are others."""
SEEK_ERRORS = (None, errno.EINVAL)
"""Numbers of the OSErrors that damaged content causes: a place before the start of the file."""


@dataclass(frozen=True)
class Origin:
    """Where weights come from: resolved config (``to_json``), class names, library version."""

    config: dict[str, Any]
    classes: tuple[str, ...]
    version: str = detr2d.__version__


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_states(work_dir: Path) -> list[Path]:
    """Training states of a run, oldest first."""
    return sorted((work_dir / "checkpoints").glob("step_*"))


def newest_whole_state(work_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest training state that can be read, and why newer ones were refused.

    Refused states (truncated, damaged, foreign) are set aside under a name that begins with
    ``refused_``, so that the step can be saved anew; nothing is deleted. If no state can be read
    the result is None and all stay where they are.
    """
    refused: list[tuple[Path, str]] = []
    for path in reversed(list_states(work_dir)):
        try:
            load_state(path)
        except ValueError as error:
            refused.append((path, str(error)))
        else:
            return path, [f"{why} (now {_set_aside(broken).name})" for broken, why in refused]
    return None, [why for _, why in refused]


def _set_aside(path: Path) -> Path:
    """Rename a training state so that it counts no more."""
    earlier = len(list(path.parent.glob(f"refused_*_{path.name}")))
    return path.rename(path.with_name(f"refused_{earlier}_{path.name}"))


def save_state(work_dir: Path, step: int, state: dict[str, Any], origin: Origin, keep: int) -> Path:
    """Write ``checkpoints/step_XXXXXXXX`` of plain values and tensors; keep the ``keep`` newest.

    The config lies beside the state as ``config.json`` for people to read.
    """
    folder = work_dir / "checkpoints"
    for stale in folder.glob(".step_*.tmp"):
        shutil.rmtree(stale)
    final = folder / f"step_{step:08d}"
    if not final.exists():
        temporary = folder / f".{final.name}.tmp"
        temporary.mkdir(parents=True)
        head = {"format": STATE_FORMAT, "step": step, "origin": describe_origin(origin)}
        torch.save({**head, **state}, temporary / STATE_FILE)
        (temporary / "config.json").write_text(json.dumps(origin.config, indent=2))
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        temporary.rename(final)
        _flush(folder)
    for old in list_states(work_dir)[:-keep]:
        condemned = old.rename(folder / f".{old.name}.tmp")  # half a state never has a true name
        shutil.rmtree(condemned)
    return final


def load_state(path: Path) -> tuple[dict[str, Any], Origin]:
    """Read one training state. Raises ValueError with the file's name if it is not a whole one."""
    file = path / STATE_FILE
    state = load_plain(file, "training state")
    ours = isinstance(state, dict) and state.get("format") == STATE_FORMAT
    if not ours:
        raise ValueError(f"{file} is not a training state of this library ({STATE_FORMAT})")
    if not {"origin", "model", "step"} <= state.keys():
        raise ValueError(f"training state {file} is truncated: it lacks origin, model or step")
    return state, read_description(file, state["origin"])


def load_plain(file: Path, what: str) -> Any:
    """Read a file of plain values and tensors that ``torch.save`` wrote, without running code.

    ``what`` it is begins every message. Raises ValueError with the file's name if it is missing,
    truncated, damaged, or holds anything else; OSError if the disk or a permission is at fault,
    MemoryError if a whole file finds no room.
    """
    damaged: str | None = ""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # torch does not compare the checksums that it writes
        if damaged is None:
            return torch.load(file, map_location="cpu", weights_only=True)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{what} {file} does not exist") from None
    except (*BROKEN, OSError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n")[0]
        if getattr(error, "errno", None) not in SEEK_ERRORS:
            raise
        if damaged is None and "can't allocate memory" in reason:
            raise MemoryError(f"{what} {file}: {reason}") from error
        raise ValueError(f"{what} {file} is truncated or foreign: {reason}") from error
    raise ValueError(f"{what} {file} is damaged: the checksum of {damaged} does not fit")


def export_weights(path: Path, weights: Mapping[str, Tensor], origin: Origin) -> None:
    """Write ``weights`` as safetensors; the metadata says where they come from."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_atomically(path, lambda file: save_file(own, file, metadata=describe_origin(origin)))


def read_origin(path: Path) -> Origin:
    """Where exported weights come from. Raises ValueError if the file does not say so."""
    with _open_weights(path) as file:
        metadata = file.metadata() or {}
    if not {"config", "classes", "version"} <= metadata.keys():
        raise ValueError(f"{path} carries no config: it was not exported by tools/train.py")
    return read_description(path, metadata)


def weight_names(path: Path) -> tuple[str, ...]:
    """Names of the tensors in a file of exported weights."""
    with _open_weights(path) as file:
        return tuple(file.keys())


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises ValueError if it is none."""
    with _open_weights(path) as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, *BROKEN) as error:
            raise ValueError(f"{path} is broken: {str(error)[:200]}") from error


def load_weights(model: nn.Module, path: Path, keep: tuple[str, ...] = ()) -> None:
    """Load exported weights into ``model``; both must hold the same keys and shapes.

    Keys that start with one of ``keep`` stay as they are in the model. Raises ValueError that
    names the file and every missing, unexpected and mis-shaped key.
    """
    weights = read_weights(path)
    expected = model.state_dict()
    kept = {name: tensor for name, tensor in expected.items() if name.startswith(keep)}
    weights = {n: tensor for n, tensor in weights.items() if not n.startswith(keep)} | kept
    problems = [f"missing {name}" for name in expected if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in expected]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        raise ValueError(f"{path} does not fit the model: " + "; ".join(problems))
    model.load_state_dict(weights)


def _open_weights(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} not found: expected a model.safetensors file")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, *BROKEN) as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error


def describe_origin(origin: Origin) -> dict[str, str]:
    """The origin as text by key, as files hold it."""
    return {
        "config": json.dumps(origin.config),
        "classes": json.dumps(origin.classes),
        "version": origin.version,
    }


def read_description(path: Path, described: Mapping[str, str]) -> Origin:
    """The origin that ``describe_origin`` described. Raises ValueError that names ``path``."""
    try:
        config, classes = json.loads(described["config"]), json.loads(described["classes"])
        whole = isinstance(config, dict) and isinstance(classes, list)
        if whole and all(isinstance(name, str) for name in classes):
            return Origin(config, tuple(classes), str(described["version"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} does not say where it comes from: {error}") from error
    raise ValueError(f"{path} does not say where it comes from: config or classes are malformed")
