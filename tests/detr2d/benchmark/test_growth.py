"""Cost against size: laws are fitted, memory is counted, and the systems keep to their laws."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from detr2d.attention import DenseAttention, Memory
from detr2d.benchmark.growth import (
    LINEAR,
    QUADRATIC,
    Growth,
    fit_law,
    growth_table,
    measure_growth,
    peak_bytes,
)
from detr2d.benchmark.measure import Setup

CPU = torch.device("cpu")


def test_a_law_that_holds_is_not_off_and_another_is() -> None:
    sizes = (1, 2, 4, 8)
    linear = fit_law(sizes, [5 + 3 * n for n in sizes], LINEAR)
    assert linear.off == pytest.approx(0, abs=1e-9)
    assert linear.exponent == pytest.approx(0.77, abs=0.01)  # of 17 and 29
    square = [2 + n + 4 * n * n for n in sizes]
    assert fit_law(sizes, square, QUADRATIC).off == pytest.approx(0, abs=1e-9)
    assert fit_law(sizes, square, LINEAR).off > 0.2


def test_the_peak_is_what_lives_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.zeros(1000)

    def together() -> None:
        _ = [torch.zeros(1000) for _ in range(3)]

    assert peak_bytes(one_after_the_other, CPU) == 4000
    assert peak_bytes(together, CPU) == 12000


def test_the_peak_leaves_out_what_was_there_and_counts_views_once() -> None:
    given = torch.ones(1000)
    assert peak_bytes(lambda: given.view(10, 100).t(), CPU) == 0
    assert peak_bytes(lambda: (given + 1).view(10, 100).t().flatten(), CPU) == 8000


@pytest.mark.parametrize("tokens", [64, 1024])
def test_attention_keeps_memory_linear_in_queries(tokens: int) -> None:
    """No weights (queries x tokens) are ever written down."""
    attention = DenseAttention(channels=32, heads=4, dropout=0.0).eval()
    memory = Memory(*torch.randn(2, 1, tokens, 32), torch.zeros(1, tokens, dtype=torch.bool))

    def look(queries: int) -> int:
        query, query_pos = torch.randn(2, 1, queries, 32)
        return peak_bytes(partial(attention, query, query_pos, None, memory), CPU)

    sizes = (100, 200, 400, 800)
    assert fit_law(sizes, [look(n) for n in sizes], LINEAR).off < 0.02


def test_a_growth_is_measured_at_all_sizes_and_written_as_a_row() -> None:
    def program(setup: Setup) -> partial[partial[torch.Tensor]]:
        return partial(partial, torch.zeros)  # type: ignore[arg-type]

    growth = Growth("zeros", "", (1000, 2000, 4000), LINEAR, LINEAR, program)
    row = measure_growth(growth, Setup(device=CPU, rounds=2))
    assert row.memory.costs == (4000, 8000, 16000) and row.memory.exponent == pytest.approx(1)
    head, line, cells = growth_table([row])
    assert head.count("|") == line.count("|") == cells.count("|")
    assert cells.startswith("| zeros | 1000, 2000, 4000 |") and "| a + b n |" in cells
