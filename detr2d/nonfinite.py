"""Steps whose losses or gradients are not finite: found before the weights change, kept to look at.

All processes decide together, so that none waits for another. A refused step leaves weights,
optimizer, averages and running statistics as they were; its batches and the weights go to a file
that ``detr2d.replay`` runs again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detr2d.checkpoints.files import Origin, describe_origin, load_plain, write_atomically
from detr2d.structures import Batch, map_tensors

REPLAY_FORMAT = "detr2d replay 1"
REPLAY_FOLDER = "replay"
MOST_REPLAYS = 5
"""Files of one process and run; later steps are only told."""


def read_numbers(rows: Sequence[dict[str, Tensor]]) -> list[dict[str, float]]:
    """Scalars of some dictionaries as numbers, with one copy from the device."""
    numbers = iter(torch.stack([v.detach().float() for row in rows for v in row.values()]).tolist())
    return [{name: next(numbers) for name in row} for row in rows]


def first_not_finite(
    rows: Sequence[dict[str, float]], groups: Sequence[Sequence[str]]
) -> tuple[str, str] | None:
    """Name the first number that is not finite, and the samples that it was made from.

    rows: the numbers of each micro-batch in the order they were computed; groups: the samples of
    each. None if all are finite.
    """
    for row, samples in zip(rows, groups, strict=True):
        for name, number in row.items():
            if not math.isfinite(number):
                return f"{name} is {number}", ", ".join(samples) or "without tokens"
    return None


class RunningStatistics:
    """The buffers that a forward pass changes (of batch norms), to be put back if need be."""

    def __init__(self, model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self.before: list[Tensor] = []

    def remember(self) -> None:
        """Keep a copy of the present values."""
        self.before = [buffer.clone() for buffer in self.buffers]

    def put_back(self) -> None:
        """Return to the values that were remembered last."""
        for buffer, value in zip(self.buffers, self.before, strict=True):
            buffer.copy_(value)


def save_replay(
    work_dir: Path,
    group: Sequence[Batch],
    weights: dict[str, Tensor],
    origin: Origin,
    *,
    step: int,
    process: int,
) -> Path | None:
    """Write the micro-batches of the step with index ``step`` and the weights that it met.

    Returns the file, or None if ``MOST_REPLAYS`` are there already.
    """
    folder = work_dir / REPLAY_FOLDER
    path = folder / f"step_{step + 1:08d}_process_{process}.pt"
    if len(list(folder.glob(f"step_*_process_{process}.pt"))) >= MOST_REPLAYS:
        return None
    content = {
        "format": REPLAY_FORMAT,
        "step": step,
        "process": process,
        "origin": describe_origin(origin),
        "weights": {name: tensor.detach().cpu() for name, tensor in weights.items()},
        "group": [map_tensors(batch, lambda tensor: tensor.detach().cpu()) for batch in group],
    }
    write_atomically(path, lambda file: torch.save(content, file))
    return path


def load_replay(path: Path) -> dict[str, Any]:
    """What ``save_replay`` wrote. Raises ValueError with the file's name if it is anything else.

    Of classes the file may hold batches only, those that are imported; no code of it is run.
    """
    with torch.serialization.safe_globals(list(_kinds(Batch))):
        content = load_plain(path, "replay file")
    if not isinstance(content, dict) or content.get("format") != REPLAY_FORMAT:
        raise ValueError(f"{path} is not a replay file of this library ({REPLAY_FORMAT})")
    return content


def _kinds(kind: type) -> Iterator[type]:
    yield kind
    below: type
    for below in kind.__subclasses__():
        yield from _kinds(below)
