"""Which gradient norms fit, and that no run is made that is not needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from detr2d.parity.gradients import RERUNS, Norms, norms_line, other_last_bits, reruns

OFFICIAL = {"a": 1.0, "b": 2.0, "zero": 0.0}


def runs_of(*norms: Norms) -> list[Callable[[], Norms]]:
    return [lambda run=run: run for run in norms]


def unexpected() -> Norms:
    raise AssertionError("this run is not needed")


def test_norms_that_fit_at_once_need_no_other_run() -> None:
    runs = [*runs_of({"a": 1.0009, "b": 1.9982, "zero": 1e-9}), unexpected]
    line = norms_line("grad_norms", OFFICIAL, runs, total=2.2)
    assert (line.verdict, line.note) == ("ok", "3 parameters")
    assert line.relative == pytest.approx(9e-4)


def test_each_norm_may_fit_in_a_run_of_its_own_and_the_note_says_which() -> None:
    runs = runs_of(
        {"a": 1.004, "b": 2.008, "zero": 0.0},
        {"a": 1.0, "b": 2.008, "zero": 0.1},
        {"a": 1.004, "b": 2.001, "zero": 0.0},
    )
    line = norms_line("grad_norms", OFFICIAL, [*runs, unexpected], total=2.2)
    said = "3 parameters, a in float64, b in float32 with other last bits (1)"
    assert (line.verdict, line.note) == ("ok", said)


@pytest.mark.parametrize("wrong", [2.0021, 1.99, float("nan")])
def test_a_norm_that_fits_in_no_run_fails_however_many_there_are(wrong: float) -> None:
    runs = runs_of(*[{"a": 1.0, "b": wrong, "zero": 0.0}] * 9)
    line = norms_line("grad_norms", OFFICIAL, runs, total=2.2)
    assert line.verdict == "FAIL" and "b in none" in line.note


def test_other_last_bits_are_put_back() -> None:
    model = nn.Linear(40, 40)
    before = [p.detach().clone() for p in model.parameters()]
    with other_last_bits(model, 0):
        (weight, old) = model.weight, before[0]
        assert 0 < ((weight - old) / old).abs().max() <= 2**-22
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_unit_at_zero_has_its_gradient_in_some_runs_only() -> None:
    """A ReLU whose input is one rounding away from zero: the case that reruns are for."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0]]))

    def again() -> Norms:
        model.zero_grad(set_to_none=True)
        (model(torch.ones(1, 2)) - 2**-25).relu().sum().backward()
        return {"weight": float(model.weight.grad.norm())}

    found = {run()["weight"] > 0 for run in reruns(model, again)}
    assert len(list(reruns(model, again))) == RERUNS and found == {True, False}
