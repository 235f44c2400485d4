"""Gradient norms, parameter by parameter, against the official ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from detr2d.checkpoints.rename import Table, rename
from detr2d.parity.detection import Run, Subject
from detr2d.parity.ledger import Ledger, Line, compare, same_pairs

GRADIENT_TOLERANCE = 1e-3  # relative
GRADIENT_FLOOR = 1e-8  # of the total norm: gradients that are zero but for rounding


def check_gradients(ledger: Ledger, subject: Subject, run: Run, double: Run) -> None:
    """Lines on the gradient norm of every parameter, their total, and what has no gradient.

    A ReLU whose input rounds to the other side of zero moves a norm of the float32 run by up to
    1e-3; a parameter passes if its norm fits in the float32 or in the float64 run.
    """
    table = subject.system.official_table()
    frozen = [p for p in subject.model.parameters() if not p.requires_grad]
    trained = [name for name, p in subject.model.named_parameters() if p.requires_grad]
    total = math.hypot(*run.gradients.values())
    ledger.close("grad_total_norm", total, rtol=GRADIENT_TOLERANCE)
    ledger.equal("not_trainable", len(frozen))
    ledger.judge("grad_none", partial(_none_line, ledger, table, set(trained) - set(run.gradients)))
    ledger.judge("grad_norms", partial(_norms_line, ledger, table, run.gradients, double.gradients))


def _none_line(ledger: Ledger, table: Table, ours: set[str]) -> Line:
    return same_pairs("grad_none", ours, [rename(n, table) for n in ledger.take("grad_none")])


def _norms_line(
    ledger: Ledger, table: Table, single: Mapping[str, float], double: Mapping[str, float]
) -> Line:
    norms = {str(rename(n, table)): norm for n, norm in ledger.take("grad_norms").items()}
    if set(norms) != set(single):
        return same_pairs("grad_norms", single, norms)
    official = np.array(list(norms.values()))
    ours, exact = (np.array([run[name] for name in norms]) for run in (single, double))
    floor = GRADIENT_FLOOR * math.hypot(*official)
    fits = np.abs(ours - official) <= floor + GRADIENT_TOLERANCE * official
    note = f"{len(norms)} parameters, {int((~fits).sum())} of them in float64"
    found = compare(
        "grad_norms",
        np.where(fits, ours, exact),
        official,
        atol=floor,
        rtol=GRADIENT_TOLERANCE,
        note=note,
    )
    real = official > floor  # the others are zero but for rounding
    chosen = np.where(fits, ours, exact)[real]
    return replace(found, relative=float(np.abs(chosen / official[real] - 1).max()))
