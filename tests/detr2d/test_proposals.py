from __future__ import annotations

import pytest
import torch
from torch import nn

from detr2d.decoder import box_head
from detr2d.deformable import PyramidTokens
from detr2d.images import valid_pixels
from detr2d.positions import SinePositions
from detr2d.proposals import (
    Anchors,
    EncoderProposals,
    best_logit,
    first_logit,
    grid_anchors,
    take_rows,
)
from detr2d.structures import FeaturePyramid


def memory(size: list[float]):
    padding = ~valid_pixels(torch.tensor([size]), 32, 32)
    maps = FeaturePyramid((torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2)))
    return PyramidTokens(SinePositions(8), levels=2, channels=8)(maps, padding)


def block(count: int, score=best_logit, channels: int = 8) -> EncoderProposals:
    return EncoderProposals(
        channels=channels,
        class_head=nn.Linear(channels, 3),
        box_head=box_head(channels, 4),
        count=count,
        score=score,
    )


def test_anchors_are_squares_at_the_cells_larger_on_coarser_levels() -> None:
    anchors = grid_anchors(memory([32.0, 32.0]))
    boxes = anchors.logits.sigmoid()[0]
    assert bool(anchors.valid.all())
    torch.testing.assert_close(boxes[0], torch.tensor([0.125, 0.125, 0.05, 0.05]))
    torch.testing.assert_close(boxes[-1], torch.tensor([0.75, 0.75, 0.1, 0.1]))


def test_padding_has_no_anchors() -> None:
    anchors = grid_anchors(memory([16.0, 32.0]))
    assert anchors.valid[0].tolist() == [True] * 8 + [False] * 8 + [True, True, False, False]
    assert bool(anchors.logits[~anchors.valid].isinf().all())
    boxes = anchors.logits[anchors.valid].sigmoid()
    torch.testing.assert_close(boxes[0], torch.tensor([0.125, 0.25, 0.05, 0.05]))


@pytest.mark.parametrize("score", [best_logit, first_logit])
def test_the_best_tokens_are_chosen_in_order(score) -> None:
    looked = memory([32.0, 32.0])
    proposals = block(5, score)(looked.tokens, grid_anchors(looked))
    scores = score(proposals.logits)[0]
    assert proposals.chosen[0].tolist() == scores.argsort(descending=True)[:5].tolist()
    selected = proposals.select()
    assert selected.logits.shape == (1, 5, 3)
    torch.testing.assert_close(selected.codes, take_rows(proposals.codes, proposals.chosen))


def test_first_boxes_are_the_anchors_and_padding_proposes_nothing_finite() -> None:
    looked = memory([16.0, 32.0])
    anchors = grid_anchors(looked)
    found = block(20)(looked.tokens, anchors).predictions()
    torch.testing.assert_close(found.codes[0], anchors.logits.sigmoid())
    found.codes.sum().backward()
    assert bool((found.codes[0][~anchors.valid] == 1).all())


def test_padded_tokens_say_the_same_whatever_they_hold() -> None:
    looked = memory([16.0, 32.0])
    anchors, proposals = grid_anchors(looked), block(20)
    noise = torch.randn_like(looked.tokens) * (~anchors.valid).unsqueeze(-1)
    torch.testing.assert_close(
        proposals(looked.tokens + noise, anchors).logits, proposals(looked.tokens, anchors).logits
    )


def test_anchors_may_be_points_of_any_dimension() -> None:
    """As a 3D system would use it: three entries are places, the rest is free."""
    proposals = EncoderProposals(
        channels=8, class_head=nn.Linear(8, 2), box_head=nn.Linear(8, 10), count=3, score=best_logit
    )
    tokens, places = torch.randn(1, 6, 8), torch.rand(1, 6, 3)
    found = proposals(tokens, Anchors(places.logit(), torch.ones(1, 6, dtype=torch.bool)))
    assert found.codes.shape == (1, 6, 10) and found.chosen.shape == (1, 3)
