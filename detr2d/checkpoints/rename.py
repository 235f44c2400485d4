"""From official names to ours: strict, by a table, with every misfit in one report."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Table:
    """How the names of one family of checkpoints become ours.

    ``rules`` are (pattern, replacement), tried in order; the first pattern that matches a whole
    name decides, ``None`` drops the tensor on purpose. ``edits`` are (pattern of *our* names,
    function) and change tensors after renaming; a function keeps devices, so that shapes can be
    compared on ``meta``.
    """

    rules: tuple[tuple[str, str | None], ...]
    edits: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = ()

    def prefixed(self, prefix: str) -> Table:
        """The same table for names that start with the literal ``prefix``."""
        return Table(tuple((re.escape(prefix) + p, r) for p, r in self.rules), self.edits)


class MisfitError(ValueError):
    """Weights that do not fit a model; the message names every key, ``summary`` is short."""

    def __init__(
        self,
        *,
        unmapped: list[str],
        unexpected: list[str],
        missing: list[str],
        misshaped: list[str],
        contradictory: list[str],
    ) -> None:
        self.problems = {
            "known to no rule": unmapped,
            "unexpected": unexpected,
            "missing": missing,
            "mis-shaped": misshaped,
            "given twice with different values": contradictory,
        }
        super().__init__(self.summary(limit=None))

    def summary(self, limit: int | None = 3) -> str:
        """The number of keys of each kind, and the first ``limit`` of them."""
        lines = []
        for kind, keys in self.problems.items():
            shown = keys if limit is None else keys[:limit]
            dots = ", ..." if len(shown) < len(keys) else ""
            if keys:
                lines.append(f"{len(keys)} {kind}: {', '.join(shown)}{dots}")
        return "; ".join(lines)


def convert(
    state: Mapping[str, Tensor],
    table: Table,
    expected: Mapping[str, Tensor],
    *,
    keep: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Our weights from official ones: exactly the keys, shapes and types of ``expected``.

    Official names that lead to one name of ours must hold equal values. Keys of ``expected`` that
    start with one of ``keep`` stay as they are there (a class head for other classes).
    Raises MisfitError that names every unmapped, unexpected, missing and mis-shaped key.
    """
    converted: dict[str, Tensor] = {}
    unmapped, contradictory = [], []
    for name, tensor in state.items():
        found = rename(name, table)
        if found is None:
            unmapped.append(name)
        elif found:
            edited = _edit(found, tensor, table)
            if found in converted and not _equal(converted[found], edited):
                contradictory.append(f"{name} ({found})")
            converted[found] = edited
    kept = {name: tensor for name, tensor in expected.items() if name.startswith(keep)}
    converted = {name: t for name, t in converted.items() if not name.startswith(keep)} | kept
    problems = MisfitError(
        unmapped=unmapped,
        unexpected=[name for name in converted if name not in expected],
        missing=[name for name in expected if name not in converted],
        misshaped=[
            f"{name} is {_size(converted[name])}, expected {_size(tensor)}"
            for name, tensor in expected.items()
            if name in converted and converted[name].shape != tensor.shape
        ],
        contradictory=contradictory,
    )
    if any(problems.problems.values()):
        raise problems
    return {name: converted[name].to(tensor.dtype) for name, tensor in expected.items()}


def rename(name: str, table: Table) -> str | None:
    """Our name, an empty one for a tensor that is dropped, None if no rule knows it."""
    for pattern, replacement in table.rules:
        match = re.fullmatch(pattern, name)
        if match:
            return "" if replacement is None else match.expand(replacement)
    return None


def _edit(name: str, tensor: Tensor, table: Table) -> Tensor:
    for pattern, function in table.edits:
        if re.fullmatch(pattern, name):
            tensor = function(tensor)
    return tensor


def _equal(first: Tensor, second: Tensor) -> bool:
    on_meta = first.is_meta or second.is_meta
    return first.shape == second.shape if on_meta else torch.equal(first, second)


def _size(tensor: Tensor) -> str:
    return "×".join(str(side) for side in tensor.shape) or "a scalar"
