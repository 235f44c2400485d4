"""Time programs against each other: same inputs, same outputs, in turns, in one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Contender:
    """One program.

    ``run`` does the work that is timed and ``outputs`` turns its result into named tensors, which
    must agree with those of the reference: no entry may differ by more than ``tolerance`` times the
    standard deviation of the reference's entries.
    """

    name: str
    run: Callable[[], Any]
    outputs: Callable[[Any], Mapping[str, Tensor]]
    tolerance: float = 1e-3


@dataclass(frozen=True)
class Duel:
    """Programs that do the same work: ours against peers. The first peer is the reference."""

    setting: str
    ours: tuple[Contender, ...]
    peers: tuple[Contender, ...]

    def __post_init__(self) -> None:
        if not self.ours or not self.peers:
            raise ValueError(f"{self.setting}: a comparison needs us and at least one peer")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How cases are run, for those that build them."""

    device: torch.device
    threads: int = 1
    rounds: int = 9
    peer_files: tuple[Mapping[str, Callable[[Any], Sequence[Contender]]], ...] = ()

    def extra_peers(self, case: str, subject: Any) -> tuple[Contender, ...]:
        """Peers for ``case`` that files outside the repository know; they get its ``subject``."""
        makers = [peers[case] for peers in self.peer_files if case in peers]
        return tuple(contender for make in makers for contender in make(subject))


@dataclass(frozen=True)
class Case:
    """A named piece of work and the comparisons that measure it."""

    name: str
    summary: str
    duels: Callable[[Setup], Iterator[Duel]]


@dataclass(frozen=True)
class Row:
    """One comparison. Times are medians in milliseconds with quartiles; ``ratio`` is theirs : ours.

    ``band`` holds the quartiles of the ratio over the rounds; ``difference`` is ours against the
    reference, in its standard deviations.
    """

    case: str
    setting: str
    ours: str
    peer: str
    our_times: tuple[float, float, float]
    peer_times: tuple[float, float, float]
    ratio: float
    band: tuple[float, float]
    difference: float


class MismatchError(Exception):
    """Programs that were to do the same work gave different results."""


def run_case(case: Case, setup: Setup) -> Iterator[Row]:
    """Check and time every comparison of ``case``. Raises MismatchError if outputs differ."""
    for duel in case.duels(setup):
        contenders = (*duel.peers, *duel.ours)
        differences = check_outputs(f"{case.name} {duel.setting}", contenders)
        times = take_turns(contenders, setup)
        for ours in duel.ours:
            for peer in duel.peers:
                mine, theirs = times[ours.name], times[peer.name]
                low, high = np.quantile(theirs / mine, (0.25, 0.75))
                yield Row(
                    case.name,
                    duel.setting,
                    ours.name,
                    peer.name,
                    _quartiles(mine),
                    _quartiles(theirs),
                    float(np.median(theirs) / np.median(mine)),
                    (float(low), float(high)),
                    differences[ours.name],
                )


def _quartiles(times: np.ndarray) -> tuple[float, float, float]:
    """Median, lower and upper quartile in milliseconds of times in seconds."""
    middle, low, high = np.quantile(times, (0.5, 0.25, 0.75)) * 1e3
    return float(middle), float(low), float(high)


def check_outputs(title: str, contenders: Sequence[Contender]) -> dict[str, float]:
    """Run each program once; its largest difference from the first, in standard deviations.

    Raises MismatchError if one lies beyond its tolerance, lacks an output or gives NaN.
    """
    reference, *others = contenders
    expected = dict(reference.outputs(reference.run()))
    differences = {reference.name: 0.0}
    for contender in others:
        found = contender.outputs(contender.run())
        for name, tensor in expected.items():
            if name not in found or found[name].shape != tensor.shape:
                came = tuple(found[name].shape) if name in found else "nothing"
                raise MismatchError(
                    f"{title}: {contender.name} gives {name} as {came}, "
                    f"{reference.name} as {tuple(tensor.shape)}"
                )
            gap = (found[name].double().cpu() - tensor.double().cpu()).abs().max()
            spread = tensor.double().std().cpu() if tensor.numel() > 1 else tensor.abs().cpu()
            difference = float(gap / spread)
            if not difference <= contender.tolerance:  # NaN too
                raise MismatchError(
                    f"{title}: {name} of {contender.name} is {difference:.2g} standard deviations "
                    f"from {reference.name}'s, at most {contender.tolerance:.2g} is allowed"
                )
            worst = max(differences.get(contender.name, 0.0), difference)
            differences[contender.name] = worst
    return differences


def take_turns(contenders: Sequence[Contender], setup: Setup) -> dict[str, np.ndarray]:
    """Seconds of each program in each round; every other round goes backwards (A B, B A, ...)."""
    timer = choose_timer(setup)
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    if len(times) < len(contenders):
        raise ValueError(f"programs need different names, got {[c.name for c in contenders]}")
    for contender in contenders:
        contender.run()  # warm: allocations, kernels, caches
    gc.collect()
    gc.disable()
    try:
        for number in range(setup.rounds):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                times[contender.name].append(timer(contender.run))
    finally:
        gc.enable()
    return {name: np.array(values) for name, values in times.items()}


def choose_timer(setup: Setup) -> Callable[[Callable[[], Any]], float]:
    """CUDA events on a GPU, processor time on one thread, else the wall clock."""
    if setup.device.type == "cuda":
        return _time_events
    return _timed_by(time.process_time if setup.threads == 1 else time.perf_counter)


def _timed_by(clock: Callable[[], float]) -> Callable[[Callable[[], Any]], float]:
    def seconds(run: Callable[[], Any]) -> float:
        start = clock()
        run()
        return clock() - start

    return seconds


def _time_events(run: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3
