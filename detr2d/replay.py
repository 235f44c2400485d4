"""Run a step that was not finite once more, and say where it breaks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detr2d.config import Experiment, user_errors
from detr2d.engine import Training
from detr2d.nonfinite import load_replay, read_numbers


@dataclass(frozen=True)
class Replay:
    """What a replay found, for people to read, and whether everything was finite."""

    text: str
    finite: bool


def replay(experiment: Experiment, path: Path) -> Replay:
    """Repeat the forward and backward passes of a file that ``save_replay`` wrote.

    On this process alone, with the weights and the random state of that step. Raises UserError if
    the file is foreign or of another system.
    """
    training = Training(experiment)
    with user_errors():
        content = load_replay(path)
        try:
            training.bare_model.load_state_dict(content["weights"])
        except RuntimeError as error:
            raise ValueError(f"{path} is of another system: {str(error).splitlines()[0]}") from None
    training.seed(content["step"], content["process"])
    group = content["group"]
    with _watched(training.bare_model) as broken:
        rows = list(training.gradients(group))
    norm = training.accelerator.clip_grad_norm_(training.wrapped.parameters(), math.inf)
    *numbers, norms = read_numbers([*rows, {"grad_norm": norm}])
    lines = [f"step {content['step'] + 1} of process {content['process']}"]
    for number, (batch, row) in enumerate(zip(group, numbers, strict=True), start=1):
        lines += _describe(batch, row, f"micro-batch {number}")
    lines += _values(norms)
    lines += [f"the first output that is not finite is that of {module}" for module in broken[:1]]
    lines += [
        f"gradient of {name} is not finite"
        for name, parameter in training.bare_model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ][:1]
    finite = all(math.isfinite(value) for row in (*numbers, norms) for value in row.values())
    return Replay("\n".join([*lines, "all is finite"] if finite else lines), finite)


def _describe(batch: Any, row: dict[str, float], name: str) -> Iterator[str]:
    """Lines about one micro-batch and its losses, weighed as the step weighed them."""
    yield f"{name}: samples {', '.join(getattr(batch, 'tokens', ())) or 'without tokens'}"
    for field in _broken_fields(batch, "batch"):
        yield f"  {field} holds NaN or infinity"  # as unknown values of targets may
    yield from (f"  {line}" for line in _values(row))


def _values(row: dict[str, float]) -> Iterator[str]:
    for term, value in row.items():
        yield f"{term} = {value:.6g}" + ("" if math.isfinite(value) else ", not finite")


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Names of the modules whose output is not finite, in the order in which they finish."""
    broken: list[str] = []

    def watch(name: str) -> Any:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if next(_broken_fields(output, name), None) is not None:
                broken.append(name or "the model")

        return note

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        yield broken
    finally:
        for hook in hooks:
            hook.remove()


def _broken_fields(value: Any, name: str) -> Iterator[str]:
    """Names of the tensors inside nested dataclasses that hold NaN or infinity."""
    if isinstance(value, Tensor):
        if not value.isfinite().all():
            yield name
    elif is_dataclass(value):
        for field in fields(value):
            yield from _broken_fields(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _broken_fields(item, f"{name}[{index}]")
