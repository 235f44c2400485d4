from __future__ import annotations

import itertools

import pytest
import torch

from detr2d.matching import match


def best_total(table: torch.Tensor) -> float:
    """Least cost of giving every object (column) its own query (row), by trying all."""
    queries, objects = table.shape
    return min(
        sum(float(table[query, column]) for column, query in enumerate(order))
        for order in itertools.permutations(range(queries), objects)
    )


def test_every_layer_and_image_gets_its_own_optimum() -> None:
    cost = torch.randn(2, 3, 5, 4)
    counts = [4, 2, 0]
    matches = match(cost, counts)
    assert len(matches) == 2 * (4 + 2)
    for layer, image in itertools.product(range(2), range(3)):
        chosen = (matches.layers == layer) & (matches.images == image)
        queries, objects = matches.queries[chosen], matches.objects[chosen]
        assert sorted(objects.tolist()) == list(range(counts[image]))
        assert len(set(queries.tolist())) == counts[image]
        total = float(cost[layer, image, queries, objects].sum())
        if counts[image]:
            assert total == pytest.approx(best_total(cost[layer, image, :, : counts[image]]))


def test_padding_columns_never_match() -> None:
    cost = torch.zeros(1, 1, 3, 4)
    cost[..., 2:] = -100.0
    assert match(cost, [2]).objects.max() < 2


def test_with_more_objects_than_queries_every_query_gets_one() -> None:
    matches = match(torch.rand(1, 1, 2, 5), [5])
    assert sorted(matches.queries.tolist()) == [0, 1]


def test_costs_that_are_not_finite_are_the_worst_of_all() -> None:
    cost = torch.zeros(2, 2, 3, 1)
    cost[1, 0, [0, 2], 0] = torch.tensor([float("nan"), float("-inf")])
    cost[1, 1] = float("inf")  # nothing better is left: still every object gets a query
    matches = match(cost, [1, 1])
    assert len(matches) == 4
    assert matches.queries[2] == 1


def test_one_copy_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: copies.append(1) or original(t))
    match(torch.rand(6, 4, 10, 3), [3, 1, 2, 0])
    assert len(copies) == 1
