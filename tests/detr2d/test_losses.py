from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from detr2d.losses import FocalClasses

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
