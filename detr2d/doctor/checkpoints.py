"""Which system a checkpoint belongs to, and what would fail to load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import detr2d
from detr2d.checkpoints.convert import misfit, only_classes_differ
from detr2d.checkpoints.files import (
    STATE_FILE,
    Origin,
    load_state,
    read_origin,
    read_weights,
)
from detr2d.checkpoints.official import read_official
from detr2d.config import (
    Experiment,
    UserError,
    describe_difference,
    load_experiment,
    to_json,
)
from detr2d.doctor.findings import Finding, gather

STARTS = {  # how files that are no checkpoint begin
    b"version https://git-lfs": "it is a pointer of Git LFS: fetch the file with git lfs pull",
    b"<": "it is a web page: the download was refused or asked for a click",
    b"{": "it is a JSON file",
}
SAFETENSORS = ".safetensors"
HUGE = 1e6  # a weight of this size has run away


@dataclass(frozen=True)
class Candidate:
    """A config that a checkpoint may belong to, and what it misses to fit; empty if it fits."""

    config: Path
    misfit: str = ""
    problems: int = 0
    only_classes: bool = False


def examine_checkpoint(path: Path, configs: Sequence[Path]) -> list[Finding]:
    """All findings of weights of ours, a training state of ours, or an official checkpoint.

    ``configs`` are the files of experiments that it may belong to; they are executed.
    """
    where = str(path)
    try:
        if path.suffix == SAFETENSORS:
            return list(exported(path, configs))
        if path.is_dir() or path.name == STATE_FILE:
            return list(training_state(path if path.is_dir() else path.parent))
        return list(official(path, configs))
    except (ValueError, OSError) as error:
        return [Finding("error", "checkpoint-unreadable", where, str(error), beginning(path))]


def beginning(path: Path) -> str:
    """What a file that is no checkpoint seems to be."""
    if not path.is_file():
        return "is the path right?"
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "it is empty: the copy or the disk failed"
    words = [said for head, said in STARTS.items() if start.lstrip().startswith(head)]
    return words[0] if words else "get the file again, it is cut off or something else"


def exported(path: Path, configs: Sequence[Path]) -> Iterable[Finding]:
    """Findings of weights that tools/train.py or tools/convert_checkpoint.py wrote."""
    weights, where = read_weights(path), str(path)
    yield from values(weights, where)
    try:
        origin = read_origin(path)
    except ValueError as error:
        yield Finding("error", "no-origin", where, str(error), "convert it with its config first")
        return
    kind = str((origin.config.get("system") or {}).get("class", "nothing")).rsplit(".", 1)[-1]
    said = f"ours, of version {origin.version}: {kind}, {len(origin.classes)} classes"
    yield Finding("note", "checkpoint", where, said)
    if version_of(origin.version) > version_of(detr2d.__version__):
        said = f"it was written by version {origin.version}, this is {detr2d.__version__}"
        yield Finding("warning", "newer-version", where, said, "update this library")
    fitting, nearest = [], None
    for config in configs:
        experiment = loaded(config)
        if experiment is None:
            continue
        different = differences(experiment, origin)
        if not different:
            yield from shapes(experiment, origin, weights, where)
            fitting.append(config.name)
        elif nearest is None or len(different) < len(nearest[1]):
            nearest = (config, different)
    if fitting:
        yield Finding("note", "fits", where, f"it was made with {', '.join(fitting)}")
    elif nearest is not None:
        yield Finding(
            "error" if len(configs) == 1 else "note", "does-not-fit", where,
            f"{nearest[0]} has other settings: {'; '.join(nearest[1])[:600]}",
            "load it with the config that it was made with, which it carries as JSON",
        )  # fmt: skip


def differences(experiment: Experiment, origin: Origin) -> list[str]:
    """Settings of the system, and classes, in which weights differ from an experiment."""
    try:
        classes = list(experiment.data.class_names())
    except (ValueError, OSError):
        classes = list(origin.classes)  # the data is elsewhere
    saved, now = origin.config.get("system"), to_json(experiment.system)
    return describe_difference(saved, now, "system") + describe_difference(
        list(origin.classes), classes, "class names"
    )


def shapes(
    experiment: Experiment, origin: Origin, weights: Mapping[str, Tensor], where: str
) -> Iterable[Finding]:
    """What would fail to load into the very system that weights say they are of."""
    with torch.device("meta"):
        expected = experiment.system.build(origin.classes).state_dict()
    faults = [f"missing {name}" for name in expected if name not in weights]
    faults += [f"unexpected {name}" for name in weights if name not in expected]
    faults += [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    yield from gather(
        "error", "weights-misfit", where, faults, "tensors that would not load",
        "the file was changed after it was written, or the code was",
    )  # fmt: skip


def training_state(folder: Path) -> Iterable[Finding]:
    """Findings of a training state of ours."""
    state, origin = load_state(folder)
    where = str(folder)
    model = {k: v for k, v in (state.get("model") or {}).items() if isinstance(v, Tensor)}
    said = f"a training state of ours at step {state.get('step')}, {len(model)} tensors"
    yield Finding("note", "checkpoint", where, f"{said}, {len(origin.classes)} classes")
    yield from values(model, where)
    lacking = [key for key in ("model", "optimizer", "step", "steps_per_epoch") if key not in state]
    yield from gather("error", "state-incomplete", where, lacking, "parts that are missing")


def official(path: Path, configs: Sequence[Path]) -> Iterable[Finding]:
    """Findings of a checkpoint that others wrote, and the configs whose system takes it."""
    state, where = read_official(path), str(path)
    yield from values(state, where)
    candidates = [c for c in (try_config(config, state) for config in configs) if c is not None]
    fitting = [c.config.name for c in candidates if not c.misfit]
    if fitting:
        said = f"official weights, {len(state)} tensors, of {', '.join(fitting)}"
        advice = "convert with tools/convert_checkpoint.py"
        if len(fitting) > 1:
            advice += "; nothing in them tells these apart, so go by the name of the file"
        yield Finding("note", "checkpoint", where, said, advice)
        return
    if not candidates:
        said = f"{len(state)} tensors, and no config to compare them with"
        yield Finding("warning", "unknown-checkpoint", where, said, "name one with --config")
        return
    nearest = min(candidates, key=lambda candidate: candidate.problems)
    known = nearest.problems < len(state) / 2
    if nearest.only_classes:
        said = f"official weights of {nearest.config.name} for other classes: {nearest.misfit}"
        advice = "convert with --new-class-head"
        yield Finding("warning", "other-classes", where, said, advice)
    else:
        words = "nearest is" if known else "no known system; nearest, but far, is"
        said = f"{words} {nearest.config.name}: {nearest.misfit}"
        advice = "expected an official DETR, Deformable DETR, DINO, DETR3D or PETR, or ours"
        yield Finding("error", "does-not-fit", where, said, advice)


def try_config(config: Path, state: Mapping[str, Tensor]) -> Candidate | None:
    """What an official state misses to fit a config; None if that takes no official weights."""
    try:
        error = misfit(config, state)
    except (UserError, ValueError, OSError):
        return None
    if error is None:
        return Candidate(config)
    problems = sum(map(len, error.problems.values()))
    return Candidate(config, error.summary(), problems, only_classes_differ(error))


def loaded(config: Path) -> Experiment | None:
    """The experiment of a config, None if it fails."""
    try:
        return load_experiment(config)
    except UserError:
        return None


def values(weights: Mapping[str, Tensor], where: str) -> Iterable[Finding]:
    """Weights that are not finite, that have run away, and files that hold none."""
    if not weights:
        yield Finding("error", "no-weights", where, "there is not a single tensor")
    floating = {n: t for n, t in weights.items() if t.is_floating_point() and t.numel()}
    broken = [name for name, tensor in floating.items() if not bool(tensor.isfinite().all())]
    yield from gather(
        "error", "weights-not-finite", where, broken, "tensors with NaN or infinity",
        "training had failed when this was saved: take an earlier one",
    )  # fmt: skip
    large = [
        f"{name}: {float(tensor.abs().max()):.3g}"
        for name, tensor in floating.items()
        if name not in broken and float(tensor.abs().max()) > HUGE and "running_" not in name
    ]
    yield from gather("warning", "weights-huge", where, large, "tensors that have run away")
    heads = [n for n, t in floating.items() if t.dim() > 1 and t.numel() > 64 and not t.any()]
    if floating and len(heads) > len([t for t in floating.values() if t.dim() > 1]) / 2:
        yield from gather("warning", "weights-zero", where, heads, "matrices of zeros only")


def version_of(text: str) -> tuple[int, ...]:
    """The numbers of a version, to be compared."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())
