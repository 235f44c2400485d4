from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from det3d.boxes import MetricBox3D
from detr2d.criterion import SetCriterion
from detr2d.losses import FocalClasses
from detr2d.structures import Predictions, Targets
from tests.helpers.rigs import random_boxes

CODEC = MetricBox3D()


def make_criterion(**changes: object) -> SetCriterion:
    settings = {
        "classes": FocalClasses(),
        "codec": CODEC,
        "cost": {"class": 2.0, "l1": 0.25},
        "loss": {"class": 2.0, "l1": 0.25},
    }
    return SetCriterion(**{**settings, **changes})


def make_predictions(layers: int = 3, images: int = 2, queries: int = 7) -> Predictions:
    codes = CODEC.encode(random_boxes(layers * images * queries))
    return Predictions(
        torch.randn(layers, images, queries, 4).requires_grad_(),
        codes.view(layers, images, queries, 10).requires_grad_(),
    )


def make_targets(*counts: int) -> tuple[Targets, ...]:
    return tuple(Targets(torch.randint(0, 4, (n,)), random_boxes(n)) for n in counts)


def test_all_layers_together_equal_each_layer_alone() -> None:
    predictions, targets = make_predictions(), make_targets(3, 5)
    criterion = make_criterion()
    together = criterion(predictions, targets)
    for layer in range(3):
        alone = criterion(
            replace(
                predictions,
                logits=predictions.logits[layer : layer + 1],
                codes=predictions.codes[layer : layer + 1],
            ),
            targets,
        )
        prefix = "" if layer == 2 else f"layer{layer}/"
        for name, value in alone.items():
            torch.testing.assert_close(together[prefix + name], value)


def test_perfect_boxes_cost_no_l1_and_unmatched_queries_train_only_the_classes() -> None:
    targets = make_targets(3)
    codes = torch.cat([CODEC.encode(targets[0].boxes), CODEC.encode(random_boxes(4))])
    codes = codes.view(1, 1, 7, 10).requires_grad_()
    logits = torch.full((1, 1, 7, 4), -2.0)
    logits[0, 0, range(3), targets[0].labels] = 2.0
    losses = make_criterion()(Predictions(logits.requires_grad_(), codes), targets)
    assert losses["l1"].item() == pytest.approx(0, abs=1e-6)
    sum(losses.values()).backward()
    assert codes.grad[0, 0, 3:].abs().max() == 0


def test_order_of_queries_and_of_objects_does_not_matter() -> None:
    predictions, targets = make_predictions(images=1), make_targets(4)
    shuffled = Predictions(predictions.logits[:, :, torch.randperm(7)].clone(), predictions.codes)
    order = torch.randperm(7)
    shuffled = Predictions(predictions.logits[:, :, order], predictions.codes[:, :, order])
    objects = torch.tensor([2, 0, 3, 1])
    moved = (Targets(targets[0].labels[objects], targets[0].boxes[objects]),)
    before, after = make_criterion()(predictions, targets), make_criterion()(shuffled, moved)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (12, 1)])
def test_images_without_objects_and_with_too_many_work(counts: tuple[int, int]) -> None:
    predictions = make_predictions()
    losses = make_criterion()(predictions, make_targets(*counts))
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(predictions.codes.grad).all()
    if counts == (0, 0):
        assert losses["l1"].item() == 0 and losses["class"].item() > 0


def test_loss_is_per_object() -> None:
    predictions, targets = make_predictions(layers=1, images=1), make_targets(3)
    twice = Predictions(predictions.logits.repeat(1, 2, 1, 1), predictions.codes.repeat(1, 2, 1, 1))
    once, doubled = make_criterion()(predictions, targets), make_criterion()(twice, targets * 2)
    for name, value in once.items():
        torch.testing.assert_close(doubled[name], value)


@pytest.mark.parametrize("weights", [{"class": 1.0}, {"class": 1.0, "l1": 1.0, "giou": 1.0}])
def test_weights_must_name_real_terms(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"\['class', 'l1'\]"):
        make_criterion(loss=weights)


def test_number_of_targets_is_checked() -> None:
    with pytest.raises(ValueError, match="2 images need as many targets, got 1"):
        make_criterion()(make_predictions(), make_targets(3))
