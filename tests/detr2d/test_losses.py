from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from detr2d.losses import FocalClasses, MaskLosses, SoftmaxClasses, heat_losses

ONE = torch.tensor(1.0)


def test_loss_of_a_coin_flip_is_computed_by_hand() -> None:
    # logit 0 everywhere: p = 0.5, so each present entry gives alpha / 4 log 2 and each absent one
    # (1 - alpha) / 4 log 2. One query with label 1 of 3 classes, one without object.
    logits = torch.zeros(1, 1, 2, 3)
    loss = FocalClasses(alpha=0.25, gamma=2.0).losses(logits, torch.tensor([[[1, 3]]]), ONE)
    assert float(loss) == pytest.approx((0.25 + 5 * 0.75) / 4 * math.log(2))


def test_cost_prefers_the_confident_query() -> None:
    logits = torch.tensor([[-4.0], [0.0], [4.0]])
    cost = FocalClasses().costs(logits, torch.tensor([0]))
    assert cost.shape == (3, 1)
    assert cost[2] < cost[1] < cost[0]


def test_extreme_half_precision_logits_stay_finite() -> None:
    logits = torch.tensor([[[[60000.0, -60000.0]]]], dtype=torch.float16, requires_grad=True)
    loss = FocalClasses().losses(logits, torch.tensor([[[1]]]), ONE)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()


@pytest.mark.parity
def test_equals_the_official_focal_loss_and_cost(parity: Path) -> None:
    fixture = np.load(parity / "ops3d/losses.npz")
    logits, labels = torch.tensor(fixture["logits"]), torch.tensor(fixture["labels"])
    loss = FocalClasses().losses(logits[None, None], labels[None, None], ONE)
    assert 2 * float(loss) / 5 == pytest.approx(float(fixture["focal_avg5"]), rel=1e-9)
    match = np.load(parity / "ops3d/hungarian_3d.npz")
    cost = FocalClasses().costs(torch.tensor(match["logits"]), torch.tensor(match["labels"]))
    torch.testing.assert_close(2 * cost, torch.tensor(match["cls_cost"]), atol=1e-6, rtol=1e-6)


def test_softmax_loss_is_a_weighted_mean_computed_by_hand() -> None:
    # One query says class 0 with p = 1/2 and is right; two say "no object" with p = 1/4 and are.
    logits = torch.log(torch.tensor([[[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]]]))
    loss = SoftmaxClasses(0.1).losses(logits, torch.tensor([[[0, 2, 2]]]), torch.tensor(7.0))
    expected = (math.log(2) + 2 * 0.1 * math.log(4)) / (1 + 2 * 0.1)
    assert float(loss) == pytest.approx(expected)


def test_softmax_cost_is_the_negative_probability() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    cost = SoftmaxClasses().costs(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(cost, -torch.tensor([[0.3, 0.5], [0.1, 0.1]]))


@pytest.mark.parametrize("term, width", [(FocalClasses(), 4), (SoftmaxClasses(), 5)])
def test_each_term_knows_how_many_classes_its_logits_hold(
    term: FocalClasses | SoftmaxClasses, width: int
) -> None:
    assert term.num_classes(width) == 4


def test_a_sure_and_right_mask_costs_nothing_and_a_wrong_one_much() -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[:, :4] = True
    sure = torch.where(masks[:, ::2, ::2], 30.0, -30.0)
    losses = MaskLosses().losses(torch.cat([sure, -sure]), masks.expand(2, -1, -1))
    assert losses["dice"][0] < 0.2 < 0.9 < losses["dice"][1]  # the edge is blurred
    assert losses["mask"][0] < losses["mask"][1] / 10


def test_no_masks_give_no_losses() -> None:
    losses = MaskLosses().losses(torch.zeros(0, 4, 4), torch.zeros(0, 8, 8, dtype=torch.bool))
    assert {name: loss.shape for name, loss in losses.items()} == {"mask": (0,), "dice": (0,)}


def test_high_scores_beside_a_centre_are_forgiven() -> None:
    logits = torch.zeros(2)
    beside, far = heat_losses(logits, torch.tensor([0.9, 0.0]))
    assert far.item() == pytest.approx(0.25 * math.log(2))
    assert beside.item() == pytest.approx(0.1**4 * far.item(), rel=1e-4)
