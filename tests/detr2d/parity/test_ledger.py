from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detr2d.parity.ledger import Ledger, agree_up_to_ties, compare, same, same_pairs


@pytest.mark.parametrize(
    "ours, verdict",
    [([1.0, 2.0], "ok"), ([1.0, 2.00009], "ok"), ([1.0, 2.1], "FAIL"), ([1.0, math.nan], "FAIL")],
)
def test_numbers_fit_within_the_tolerance(ours: list[float], verdict: str) -> None:
    assert compare("x", ours, [1.0, 2.0], atol=1e-4).verdict == verdict


def test_the_largest_differences_are_reported() -> None:
    line = compare("x", torch.tensor([1.0, 11.0]), np.array([2.0, 10.0]), atol=5.0)
    assert (line.absolute, line.relative) == (1.0, 0.5)


def test_other_shapes_fail_and_nothing_equals_nothing() -> None:
    assert compare("x", [1.0], [1.0, 2.0], atol=9.0).verdict == "FAIL"
    assert compare("x", np.zeros((0, 4)), np.zeros((0, 4)), atol=0.0).verdict == "ok"


@pytest.mark.parametrize(
    "ours, official, verdict",
    [
        (torch.tensor([1, 2]), np.array([1, 2]), "ok"),
        (torch.tensor([1, 3]), np.array([1, 2]), "FAIL"),
        ([1, "a"], [1, "a"], "ok"),
        ({"a": 1}, {"a": 2}, "FAIL"),
    ],
)
def test_equality_of_arrays_and_plain_values(ours: object, official: object, verdict: str) -> None:
    assert same("x", ours, official).verdict == verdict


def test_pairs_have_no_order() -> None:
    assert same_pairs("x", [(1, 2), (3, 4)], [(3, 4), (1, 2)]).verdict == "ok"
    line = same_pairs("x", [(1, 2)], [(1, 3)])
    assert line.verdict == "FAIL" and "missing [(1, 3)], too many [(1, 2)]" in line.note


def test_ids_may_differ_only_where_they_are_tied() -> None:
    ours, official = torch.tensor([1, 2, 3]), np.array([1, 5, 3])
    assert agree_up_to_ties("x", ours, official, [False, True, False]).verdict == "ok"
    assert agree_up_to_ties("x", ours, official, [True, False, True]).verdict == "FAIL"


def test_a_quantity_that_nobody_looks_at_fails() -> None:
    ledger = Ledger({"a": np.ones(2), "b": 3, "c/d": 4})
    ledger.close("a", torch.ones(2))
    ledger.skip("c/.*", "for a reason")
    verdicts = {line.quantity: line.verdict for line in ledger.finish()}
    assert verdicts == {"a": "ok", "c/d": "skip", "b": "FAIL"}


def test_a_quantity_that_is_not_there_fails_and_so_does_a_broken_check() -> None:
    ledger = Ledger({"a": np.ones(2)})
    ledger.close("missing", torch.ones(2))
    ledger.judge("broken", lambda: compare("broken", "text", ledger.take("a"), atol=1.0))
    verdicts = {line.quantity: line.verdict for line in ledger.finish()}
    assert verdicts == {"missing": "FAIL", "broken": "FAIL"}


def test_lines_are_read_by_people() -> None:
    line = compare("out/boxes", [1.5], [1.0], atol=1.0, note="why not")
    assert str(line) == "ok   abs 5.00e-01 rel 5.00e-01  out/boxes  why not"
