"""How time and memory grow with the size of a task, beside the law that they should follow."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detr2d.benchmark.detection import our_detector
from detr2d.benchmark.measure import Setup, choose_timer
from detr2d.benchmark.subjects import make_subject
from detr2d.systems.detr import DETRConfig

LINEAR, QUADRATIC = (0, 1), (0, 1, 2)
HEAD = "| case | n | time, ms | exponent | law | off | memory, MiB | exponent | law | off |"


@dataclass(frozen=True)
class Growth:
    """A program at several sizes n, and the powers of n that its time and memory are sums of.

    ``program`` builds what is common to all sizes and returns the program of one size.
    """

    name: str
    summary: str
    sizes: tuple[int, ...]
    time: tuple[int, ...]
    memory: tuple[int, ...]
    program: Callable[[Setup], Callable[[int], Callable[[], Any]]]


@dataclass(frozen=True)
class Curve:
    """One cost at all sizes. ``exponent``: the slope of its logarithm over the last step.

    ``off``: largest relative deviation from the sum of ``powers`` with the best shares.
    """

    costs: tuple[float, ...]
    powers: tuple[int, ...]
    exponent: float
    off: float


@dataclass(frozen=True)
class GrowthRow:
    """Milliseconds and bytes of one case at its sizes."""

    case: str
    sizes: tuple[int, ...]
    time: Curve
    memory: Curve


def fit_law(sizes: Sequence[int], costs: Sequence[float], powers: Sequence[int]) -> Curve:
    """Fit costs at sizes by a sum of powers with shares that are not negative.

    Relative deviations count, so that small sizes matter as much as large ones.
    """
    n, cost = np.array(sizes, dtype=float), np.array(costs, dtype=float)
    table = n[:, None] ** np.array(powers) / cost[:, None]
    shares, _ = nnls(table, np.ones(len(n)))
    exponent = math.log(cost[-1] / cost[-2]) / math.log(n[-1] / n[-2])
    off = float(np.abs(table @ shares - 1).max())
    return Curve(tuple(cost.tolist()), tuple(powers), exponent, off)


def measure_growth(growth: Growth, setup: Setup) -> GrowthRow:
    """Time a program at all its sizes in turns, and count the memory of each."""
    program, timer = growth.program(setup), choose_timer(setup)
    programs = [program(size) for size in growth.sizes]
    memory = [peak_bytes(run, setup.device) for run in programs]  # warms them as well
    times = [[timer(run) for run in programs] for _ in range(setup.rounds)]
    medians = (np.median(times, axis=0) * 1e3).tolist()
    return GrowthRow(
        growth.name,
        growth.sizes,
        fit_law(growth.sizes, medians, growth.time),
        fit_law(growth.sizes, memory, growth.memory),
    )


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """The most bytes that ``run`` holds at once, beside what was there before.

    On a GPU its allocator says so. Elsewhere tensors are counted as operators return them, which
    leaves out what an operator needs inside.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.no_grad(), PeakMemory() as memory:
        run()
    return memory.peak


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are made under it, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.now = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        for storage in _storages((args, kwargs)):
            self._meet(storage, 0)
        found = func(*args, **(kwargs or {}))
        for storage in _storages(found):
            self._meet(storage, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return found

    def _meet(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key not in self.known:
            self.known.add(key)
            self.now += size
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and value.layout == torch.strided:
            yield value.untyped_storage()


def growth_table(rows: Iterable[GrowthRow]) -> Iterator[str]:
    """The lines of a Markdown table, each as soon as its row is there."""
    yield HEAD
    yield "|" + "---|" * (HEAD.count("|") - 1)
    for row in rows:
        cells = [row.case, _listed(row.sizes), *_described(row.time, 1)]
        cells += _described(row.memory, 2**20)
        yield f"| {' | '.join(cells)} |"


def _described(curve: Curve, unit: float) -> Iterator[str]:
    yield _listed([cost / unit for cost in curve.costs])
    yield f"{curve.exponent:.2f}"
    names = {0: "", 1: " n", 2: " n²"}
    pairs = zip("abc"[: len(curve.powers)], curve.powers, strict=True)
    yield " + ".join(f"{share}{names[power]}" for share, power in pairs)
    yield f"{curve.off:.0%}"


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in values)


def detr_images(setup: Setup) -> Callable[[int], Callable[[], Any]]:
    """DETR-R50 on batches of n small images."""

    def program(images: int) -> Callable[[], Any]:
        size = (128, 160)
        subject = make_subject(DETRConfig(), size, images=images, objects=0, device=setup.device)
        return our_detector(subject, "float32", 1.0).run

    return program


GROWTHS = (
    Growth("growth.detr.images", "DETR-R50, batch size", (1, 2, 4, 8), LINEAR, LINEAR, detr_images),
)
