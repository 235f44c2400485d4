from __future__ import annotations

import torch

from detr2d.queries import AnchorQueries, LearnedQueries


def test_learned_queries_keep_their_positions_wherever_references_go() -> None:
    queries = LearnedQueries(5, 8, 3)
    content, reference = queries(2)
    assert content.shape == (2, 5, 8) and reference.shape == (2, 5, 3)
    assert bool((reference > 0).all() and (reference < 1).all())
    torch.testing.assert_close(queries.positions(reference), queries.positions(1 - reference))


def test_anchor_queries_start_at_their_anchors_and_move_their_positions() -> None:
    anchors = torch.rand(5, 3)
    queries = AnchorQueries(anchors, 8)
    _, reference = queries(2)
    torch.testing.assert_close(reference, anchors.expand(2, 5, 3))
    before, after = queries.positions(reference), queries.positions(reference * 0.9)
    assert (before - after).abs().max() > 1e-3


def test_equal_anchors_are_the_same_query() -> None:
    queries = AnchorQueries(torch.full((2, 3), 0.4), 8)
    content, reference = queries(1)
    torch.testing.assert_close(content[:, 0], content[:, 1])
    positions = queries.positions(reference)
    torch.testing.assert_close(positions[:, 0], positions[:, 1])
