"""Compare quantity by quantity with official numbers, and leave none of them out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Line:
    """The verdict on one quantity, with the largest absolute and relative difference."""

    quantity: str
    verdict: Literal["ok", "FAIL", "skip"]
    absolute: float | None = None
    relative: float | None = None
    note: str = ""

    def __str__(self) -> str:
        numbers = " ".join(
            f"{label} {'-' * 8 if value is None else format(value, '8.2e')}"
            for label, value in (("abs", self.absolute), ("rel", self.relative))
        )
        return f"{self.verdict:4} {numbers}  {self.quantity}  {self.note}".rstrip()


class Ledger:
    """Collects lines about ``official`` quantities and knows which nobody has looked at yet."""

    def __init__(self, official: Mapping[str, Any]) -> None:
        self.official = official
        self.lines: list[Line] = []
        self.read: set[str] = set()

    def take(self, key: str) -> Any:
        """The official value under ``key``, from now on counted as looked at.

        Raises KeyError if there is none.
        """
        if key not in self.official:
            raise KeyError(f"the official case has no {key}")
        self.read.add(key)
        return self.official[key]

    def has(self, pattern: str) -> list[str]:
        """Official keys that match a whole pattern, in their order."""
        return [key for key in self.official if re.fullmatch(pattern, key)]

    def close(
        self, key: str, ours: Any, *, atol: Any = 0.0, rtol: float = 0.0, note: str = ""
    ) -> None:
        """Compare an array or number: each difference at most ``atol`` + ``rtol`` · |official|."""
        self.judge(key, lambda: compare(key, ours, self.take(key), atol=atol, rtol=rtol, note=note))

    def equal(self, key: str, ours: Any, note: str = "") -> None:
        """Compare values that have to be the same, of any type."""
        self.judge(key, lambda: same(key, ours, self.take(key), note))

    def judge(self, quantity: str, check: Callable[[], Line]) -> None:
        """Add what ``check`` finds; that it cannot be done is a FAIL, not the end."""
        try:
            self.lines.append(check())
        except Exception as error:  # whatever a spoiled case provokes is a verdict on it
            self.lines.append(Line(quantity, "FAIL", note=f"{type(error).__name__}: {error}"))

    def skip(self, pattern: str, reason: str) -> None:
        """List quantities whose keys match as not compared, and say why."""
        for key in self.has(pattern):
            if key not in self.read:
                self.read.add(key)
                self.lines.append(Line(key, "skip", note=reason))

    def finish(self) -> list[Line]:
        """All lines; official quantities that nobody looked at are failures."""
        forgotten = [key for key in self.official if key not in self.read]
        notes = [Line(key, "FAIL", note="no check looks at this quantity") for key in forgotten]
        return [*self.lines, *notes]


def compare(
    quantity: str, ours: Any, official: Any, *, atol: Any, rtol: float = 0.0, note: str = ""
) -> Line:
    """Line on numbers of any shape; the largest relative difference is among sizeable entries.

    ``atol`` is one number, or an array that broadcasts to the official one.
    """
    ours, official = _array(ours), _array(official)
    if ours.shape != official.shape:
        return Line(quantity, "FAIL", note=f"shape {ours.shape}, official {official.shape}")
    if not ours.size:
        return Line(quantity, "ok", 0.0, 0.0, note or "empty")
    difference, size = np.abs(ours - official), np.abs(official)
    relative = difference / np.maximum(size, 1e-3 * size.max() + 1e-30)
    fits = bool((difference <= atol + rtol * size).all())  # False for NaN
    note = note if fits else f"{note} allowed {np.max(atol):.1e} + {rtol:.1e} rel".strip()
    verdict: Literal["ok", "FAIL"] = "ok" if fits else "FAIL"
    return Line(quantity, verdict, float(difference.max()), float(relative.max()), note)


def same(quantity: str, ours: Any, official: Any, note: str = "") -> Line:
    """Line on values that have to be equal: arrays, or plain JSON values."""
    if isinstance(official, np.ndarray):
        ours = _array(ours, exact=True)
        fits = ours.shape == official.shape and bool((ours == official).all())
        wrong = int((ours != official).sum()) if ours.shape == official.shape else -1
        said = f"{wrong} of {official.size} differ" if wrong >= 0 else "other shape"
    else:
        fits, said = ours == official, f"{_short(ours)}, official {_short(official)}"
    return Line(quantity, "ok" if fits else "FAIL", note=note if fits else f"{note} {said}".strip())


def same_pairs(quantity: str, ours: Iterable[Any], official: Iterable[Any]) -> Line:
    """Line on two collections whose order does not matter."""
    first, second = set(ours), set(official)
    missing, extra = second - first, first - second
    if not missing and not extra:
        return Line(quantity, "ok", note=f"{len(second)} equal")
    said = f"missing {_short(sorted(missing))}, too many {_short(sorted(extra))}"
    return Line(quantity, "FAIL", note=said)


def agree_up_to_ties(quantity: str, ours: Any, official: Any, tied: Any) -> Line:
    """Line on labels or ids: they may differ only where ``tied``, bool of the same shape."""
    ours, official = _array(ours, exact=True), _array(official, exact=True)
    if ours.shape != official.shape:
        return Line(quantity, "FAIL", note=f"shape {ours.shape}, official {official.shape}")
    wrong = ours != official
    unexplained = int((wrong & ~_array(tied, exact=True)).sum())
    note = f"{int(wrong.sum())} of {wrong.size} differ, {unexplained} of them not tied"
    return Line(quantity, "FAIL" if unexplained else "ok", note=note if wrong.any() else "equal")


def _array(value: Any, *, exact: bool = False) -> np.ndarray:
    """The value on the host; as float64 unless its own type matters."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    return array if exact else array.astype(np.float64)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
