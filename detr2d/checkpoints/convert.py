"""From a published checkpoint to a file of ours, or to an explanation of why it cannot be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from detr2d.checkpoints.files import (
    Origin,
    export_weights,
    load_weights,
    read_origin,
    weight_names,
)
from detr2d.checkpoints.official import read_official
from detr2d.checkpoints.rename import MisfitError, convert
from detr2d.config import (
    Experiment,
    OtherSystemError,
    UserError,
    load_experiment,
    to_json,
    user_errors,
)

CLASS_HEADS = ("class_head.", "class_heads.", "queries.proposals.class_head.", "denoising.labels.")


def convert_checkpoint(
    config: Path,
    experiment: Experiment,
    source: Path,
    target: Path,
    *,
    averaged: bool = False,
    new_class_head: bool = False,
) -> list[str]:
    """Write the official weights in ``source`` as ours to ``target``; what the user should know.

    ``config`` is the file that ``experiment`` came from. With ``new_class_head`` the class head
    stays as initialised, for other classes. Raises UserError with a short report (what is missing,
    unexpected, mis-shaped, and which configs beside ``config`` would fit) if they do not fit.
    """
    with user_errors():
        state = read_official(source, averaged=averaged)
        classes = experiment.data.class_names()
        with torch.device("cpu" if new_class_head else "meta"):
            model = experiment.system.build(classes)
        table = experiment.system.official_table()
    keep = CLASS_HEADS if new_class_head else ()
    try:
        weights = convert(state, table, model.state_dict(), keep=keep)
    except MisfitError as error:
        raise UserError(
            f"{source} does not fit {config}: {_explain(error, config, state)}"
        ) from error
    export_weights(target, weights, Origin(to_json(experiment), classes))
    notes = [f"{len(state)} official tensors became {len(weights)} of {config.name}"]
    if new_class_head:
        notes.append(f"the class head starts anew, for {len(classes)} classes: train before use")
    others = [path.name for path in fitting_configs(config, state) if path != config]
    if others and not new_class_head:
        notes.append(
            f"the weights also fit {', '.join(others)}: nothing in them tells these apart "
            f"(stride and dilation have no weights), so go by the name of the file"
        )
    return notes


def load_official(experiment: Experiment, source: Path) -> nn.Module:
    """The experiment's model with the official weights in ``source``, on the CPU.

    Raises ValueError with a short report if they do not fit.
    """
    model = experiment.system.build(experiment.data.class_names())
    state, table = read_official(source), experiment.system.official_table()
    try:
        model.load_state_dict(convert(state, table, model.state_dict()))
    except MisfitError as error:
        hint = "tools/convert_checkpoint.py says which configs fit"
        raise ValueError(f"{source} does not fit: {error.summary()}; {hint}") from error
    return model


def _explain(error: MisfitError, config: Path, state: Mapping[str, Tensor]) -> str:
    fitting = [path.name for path in fitting_configs(config, state)]
    if only_classes_differ(error):
        hint = "; only the number of classes differs: --new-class-head starts a new class head"
    elif fitting:
        hint = f"; it fits {', '.join(fitting)}"
    else:
        hint = f"; no config in {config.parent} fits it"
    return error.summary() + hint


def only_classes_differ(error: MisfitError) -> bool:
    """Whether nothing but the shapes of class heads is wrong."""
    problems = [kind for kind, keys in error.problems.items() if keys]
    heads = all(key.startswith(CLASS_HEADS) for key in error.problems["mis-shaped"])
    return problems == ["mis-shaped"] and heads


def fitting_configs(config: Path, state: Mapping[str, Tensor]) -> list[Path]:
    """Configs in the folder of ``config`` whose system takes the official ``state`` as it is."""
    return [path for path in sorted(config.parent.glob("*.py")) if _fits(path, state)]


def _fits(config: Path, state: Mapping[str, Tensor]) -> bool:
    try:
        return misfit(config, state) is None
    except (UserError, ValueError, OSError):  # whatever is wrong, it does not fit
        return False


def misfit(config: Path, state: Mapping[str, Tensor]) -> MisfitError | None:
    """What keeps the official ``state`` from fitting the system of a config; None if it fits.

    Only names and shapes are compared. Raises UserError, ValueError or OSError if the config
    fails, its data is missing, or its system takes no official weights.
    """
    experiment = load_experiment(config)
    with torch.device("meta"):
        model = experiment.system.build(experiment.data.class_names())
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    try:
        convert(shapes, experiment.system.official_table(), model.state_dict())
    except MisfitError as error:
        return error
    return None


def start_from(
    model: nn.Module, path: Path, classes: tuple[str, ...], new: Sequence[str] = ()
) -> str:
    """Load exported weights into ``model`` to train on; what was done, in words.

    If the weights were made for other classes, the class head stays as initialised, and so does
    each part of the model in ``new`` that the file knows nothing of (a mask head for a detector).
    Raises ValueError if anything else does not fit.
    """
    known, names = read_origin(path).classes, weight_names(path)
    fresh = tuple(f"{part}." for part in new)
    fresh = tuple(part for part in fresh if not any(name.startswith(part) for name in names))
    said = [f"starting from {path}"]
    if fresh:
        said.append("new: " + ", ".join(part.removesuffix(".") for part in fresh))
    if known != classes:
        fresh += CLASS_HEADS
        said.append(
            f"with a new class head: it knows {len(known)} classes, "
            f"the data has {len(classes)} others"
        )
    load_weights(model, path, keep=fresh)
    return ", ".join(said)


@contextlib.contextmanager
def naming_fitting_configs(config: Path, checkpoint: Path) -> Iterator[None]:
    """Add to an ``OtherSystemError`` which configs beside ``config`` the weights were made with."""
    try:
        yield
    except OtherSystemError as error:
        origin = read_origin(checkpoint)
        fitting = [path.name for path in sorted(config.parent.glob("*.py")) if _made(path, origin)]
        hint = f"it fits {', '.join(fitting)}" if fitting else f"no config in {config.parent} fits"
        raise UserError(f"{error}; {hint}") from error


def _made(config: Path, origin: Origin) -> bool:
    try:
        experiment = load_experiment(config)
        same_system = to_json(experiment.system) == origin.config.get("system")
        return same_system and experiment.data.class_names() == origin.classes
    except (UserError, ValueError, OSError):  # a broken config fits nothing
        return False
