"""Gradient norms, parameter by parameter, against the official ones.

A gradient jumps where a ReLU's input crosses zero and where a sampling point crosses a cell's
centre. An official input that is zero but for rounding may lie on the other side than ours: one
such unit of one token (input 4e-6, noise 3e-6) moved norms by 4e-3; moved back by hand, all agree
to 3e-5. So a norm that does not fit is looked for in float64, and in runs that differ from ours in
the last bits of the weights. A mistake is in all of these runs; the tolerance is the same for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn

from detr2d.checkpoints.rename import Table, rename
from detr2d.parity.detection import Run, Subject
from detr2d.parity.ledger import Ledger, Line, compare, same_pairs

GRADIENT_TOLERANCE = 1e-3  # relative
GRADIENT_FLOOR = 1e-8  # of the total norm: gradients that are zero but for rounding
RERUNS = 16
LAST_BIT = 2**-23  # relative, of float32

Norms = Mapping[str, float]


def check_gradients(
    ledger: Ledger, subject: Subject, run: Run, double: Run, again: Callable[[], Norms]
) -> None:
    """Lines on the gradient norm of every parameter, their total, and what has no gradient.

    ``again`` gives the norms of one more float32 run.
    """
    table = subject.system.official_table()
    frozen = [p for p in subject.model.parameters() if not p.requires_grad]
    trained = [name for name, p in subject.model.named_parameters() if p.requires_grad]
    total = math.hypot(*run.gradients.values())
    ledger.close("grad_total_norm", total, rtol=GRADIENT_TOLERANCE)
    ledger.equal("not_trainable", len(frozen))
    ledger.judge("grad_none", partial(_none_line, ledger, table, set(trained) - set(run.gradients)))
    runs = (lambda: run.gradients, lambda: double.gradients, *reruns(subject.model, again))
    ledger.judge("grad_norms", partial(_norms_line, ledger, table, runs))


def _none_line(ledger: Ledger, table: Table, ours: set[str]) -> Line:
    return same_pairs("grad_none", ours, [rename(n, table) for n in ledger.take("grad_none")])


def _norms_line(ledger: Ledger, table: Table, runs: Iterable[Callable[[], Norms]]) -> Line:
    norms = {str(rename(n, table)): norm for n, norm in ledger.take("grad_norms").items()}
    first, *others = runs
    if set(norms) != set(first()):
        return same_pairs("grad_norms", first(), norms)
    return norms_line("grad_norms", norms, (first, *others), math.hypot(*norms.values()))


def norms_line(
    quantity: str, official: Norms, runs: Iterable[Callable[[], Norms]], total: float
) -> Line:
    """Line on norms by our names: each has to fit in one of ``runs``, which are made as needed.

    They are float32, float64 and further ones; ``total`` is the norm of all gradients. The note
    names what did not fit at first and in which run it did.
    """
    names, theirs = list(official), np.array(list(official.values()))
    floor = GRADIENT_FLOOR * total
    allowed = floor + GRADIENT_TOLERANCE * theirs
    chosen, fits, found_in = np.zeros_like(theirs), np.zeros(len(names), bool), []
    for number, run in enumerate(runs):
        norms = run()
        ours = np.array([norms[name] for name in names])
        better = ~fits & ((np.abs(ours - theirs) < np.abs(chosen - theirs)) | (number == 0))
        chosen = np.where(better, ours, chosen)
        now = np.abs(chosen - theirs) <= allowed
        if number:
            found_in += [f"{names[i]} in {_name(number)}" for i in np.flatnonzero(now & ~fits)]
        fits = now
        if fits.all():
            break
    missed = [names[i] for i in np.flatnonzero(~fits)]
    parts = [f"{len(names)} parameters", *found_in, *(f"{name} in none" for name in missed)]
    # Norms below the floor are zero but for rounding, so they say nothing about relative errors.
    chosen = np.where((theirs <= floor) & fits, theirs, chosen)
    return compare(quantity, chosen, theirs, atol=floor, rtol=GRADIENT_TOLERANCE, note=_join(parts))


def _name(number: int) -> str:
    return "float64" if number == 1 else f"float32 with other last bits ({number - 1})"


def _join(parts: list[str], most: int = 6) -> str:
    more = len(parts) - most
    return ", ".join(parts[:most]) + (f" and {more} more" if more > 0 else "")


def reruns(model: nn.Module, again: Callable[[], Norms]) -> Iterator[Callable[[], Norms]]:
    """Further float32 runs of ``again``, each with other last bits of the model's weights."""

    def run(seed: int) -> Norms:
        with other_last_bits(model, seed):
            return again()

    return (partial(run, seed) for seed in range(RERUNS))


@contextmanager
def other_last_bits(model: nn.Module, seed: int) -> Iterator[None]:
    """Change every float32 weight by its last bit at most, at random, and put it back."""
    generator = torch.Generator().manual_seed(seed)
    parameters = list(model.parameters())
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p in parameters:
            step = torch.randint(-1, 2, p.shape, generator=generator).to(p)
            p.mul_(1 + LAST_BIT * step)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, kept, strict=True):
                p.copy_(old)
