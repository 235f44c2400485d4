"""From a published checkpoint to a file of ours, or to an explanation of why it cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from detr2d.checkpoints.files import Origin, export_weights, load_weights, read_origin
from detr2d.checkpoints.official import read_official
from detr2d.checkpoints.rename import MisfitError, convert
from detr2d.config import Experiment, UserError, load_experiment, to_json, user_errors

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


def _explain(error: MisfitError, config: Path, state: Mapping[str, Tensor]) -> str:
    fitting = [path.name for path in fitting_configs(config, state)]
    problems = [kind for kind, keys in error.problems.items() if keys]
    heads = [key for key in error.problems["mis-shaped"] if not key.startswith(CLASS_HEADS)]
    if problems == ["mis-shaped"] and not heads:
        hint = "; only the number of classes differs: --new-class-head starts a new class head"
    elif fitting:
        hint = f"; it fits {', '.join(fitting)}"
    else:
        hint = f"; no config in {config.parent} fits it"
    return error.summary() + hint


def fitting_configs(config: Path, state: Mapping[str, Tensor]) -> list[Path]:
    """Configs in the folder of ``config`` whose system takes the official ``state`` as it is."""
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    return [path for path in sorted(config.parent.glob("*.py")) if _fits(path, shapes)]


def _fits(config: Path, shapes: Mapping[str, Tensor]) -> bool:
    try:
        experiment = load_experiment(config)
        with torch.device("meta"):
            model = experiment.system.build(experiment.data.class_names())
        convert(shapes, experiment.system.official_table(), model.state_dict())
    except (UserError, ValueError, OSError):  # MisfitError too: whatever is wrong, it does not fit
        return False
    return True


def start_from(model: nn.Module, path: Path, classes: tuple[str, ...]) -> str:
    """Load exported weights into ``model`` to train on; what was done, in words.

    If the weights were made for other classes, the class head stays as initialised. Raises
    ValueError if anything else does not fit.
    """
    known = read_origin(path).classes
    if known == classes:
        load_weights(model, path)
        return f"starting from {path}"
    load_weights(model, path, keep=CLASS_HEADS)
    return (
        f"starting from {path}, with a new class head: "
        f"it knows {len(known)} classes, the data has {len(classes)} others"
    )
