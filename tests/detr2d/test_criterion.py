from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from det3d.boxes import MetricBox3D
from detr2d.boxes import NormalizedBox2D
from detr2d.criterion import SetCriterion, cardinality_error, class_error
from detr2d.losses import FocalClasses, MaskLosses, SoftmaxClasses
from detr2d.structures import MaskPredictions, Predictions, Targets
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


BOX_COST = {"class": 1.0, "l1": 5.0, "giou": 2.0}


def detr_criterion(**changes: object) -> SetCriterion:
    settings = {
        "classes": SoftmaxClasses(),
        "codec": NormalizedBox2D(),
        "masks": MaskLosses(),
        "cost": BOX_COST,
        "loss": {**BOX_COST, "mask": 1.0, "dice": 1.0},
    }
    return SetCriterion(**{**settings, **changes})


def mask_predictions(images: int = 2, queries: int = 5, layers: int = 2) -> Predictions:
    masks = MaskPredictions(
        torch.randn(images, queries, 3, 4, requires_grad=True),
        (12, 16),
        torch.tensor([[12.0, 16.0]]).expand(images, -1),
        torch.tensor([[24.0, 32.0]]).expand(images, -1),
    )
    return Predictions(
        torch.randn(layers, images, queries, 5, requires_grad=True),
        torch.rand(layers, images, queries, 4, requires_grad=True),
        masks=masks,
    )


def mask_targets(*counts: int, height: int = 12, width: int = 16) -> tuple[Targets, ...]:
    return tuple(
        Targets(torch.randint(0, 4, (n,)), torch.rand(n, 4), torch.rand(n, height, width) > 0.5)
        for n in counts
    )


def test_only_the_last_layer_has_mask_losses_and_only_matched_masks_learn() -> None:
    predictions, targets = mask_predictions(), mask_targets(2, 1)
    criterion = detr_criterion()
    losses = criterion(predictions, targets)
    boxes = set(BOX_COST)
    assert set(losses) == boxes | {f"layer0/{name}" for name in boxes} | {"mask", "dice"}
    (losses["mask"] + losses["dice"]).backward()
    matches = criterion.match(predictions, targets)
    last = matches.layers == 1
    trained = predictions.masks.logits.grad.abs().sum((2, 3)) > 0
    wanted = torch.zeros(2, 5, dtype=torch.bool)
    wanted[matches.images[last], matches.queries[last]] = True
    assert torch.equal(trained, wanted)


def test_masks_of_smaller_images_are_empty_in_the_padding() -> None:
    predictions, small = mask_predictions(images=1), mask_targets(2, height=8, width=10)
    padded = torch.zeros(2, 12, 16, dtype=torch.bool)
    padded[:, :8, :10] = small[0].masks
    criterion = detr_criterion()
    found = criterion(predictions, small)
    expected = criterion(predictions, (replace(small[0], masks=padded),))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (9, 1)])
def test_softmax_and_masks_work_without_objects_and_with_too_many(counts: tuple[int, int]) -> None:
    predictions = mask_predictions()
    total = sum(detr_criterion()(predictions, mask_targets(*counts)).values())
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(predictions.logits.grad).all()
    assert torch.isfinite(predictions.masks.logits.grad).all()


def test_softmax_loss_does_not_depend_on_the_number_of_objects_of_other_processes() -> None:
    logits, labels = torch.randn(2, 3, 5, 4), torch.randint(0, 4, (2, 3, 5))
    few, many = (SoftmaxClasses().losses(logits, labels, torch.tensor(n)) for n in (1.0, 50.0))
    torch.testing.assert_close(few, many)


def test_masks_that_are_missing_or_too_large_are_named() -> None:
    criterion, predictions = detr_criterion(), mask_predictions(images=1)
    boxes_only = (replace(mask_targets(1)[0], masks=None),)
    with pytest.raises(ValueError, match="need targets with masks"):
        criterion(predictions, boxes_only)
    with pytest.raises(ValueError, match=r"\(13, 16\) pixels exceed their canvas of \(12, 16\)"):
        criterion(predictions, mask_targets(1, height=13))
    with pytest.raises(ValueError, match="a system that predicts masks"):
        criterion(replace(predictions, masks=None), mask_targets(1))


def test_mask_weights_are_needed_for_mask_terms_only() -> None:
    with pytest.raises(ValueError, match="dice"):
        detr_criterion(loss=BOX_COST)
    with pytest.raises(ValueError, match="must name exactly"):
        detr_criterion(masks=None)


def test_cardinality_error_counts_claimed_objects() -> None:
    logits = torch.zeros(1, 2, 3, 4)
    logits[0, 0, :, 3] = 1.0  # image 0 claims none of its two objects
    logits[0, 1, :, 0] = 1.0  # image 1 claims three, has one
    predictions = Predictions(logits, torch.rand(1, 2, 3, 4))
    assert cardinality_error(predictions, mask_targets(2, 1)).tolist() == [2.0]


def test_class_error_is_the_share_of_wrong_matched_queries() -> None:
    predictions, criterion = mask_predictions(layers=1), detr_criterion()
    targets = mask_targets(2, 2)
    matches = criterion.match(predictions, targets)
    logits = torch.zeros(1, 2, 5, 5)
    for image, query, target in zip(matches.images, matches.queries, matches.objects, strict=True):
        logits[0, image, query, targets[image].labels[target]] = 1.0
    logits[0, 0, matches.queries[0]] = torch.tensor([0.0, 0.0, 0.0, 0.0, 9.0])
    right = replace(predictions, logits=logits)
    assert float(class_error(right, targets, matches)) == 25.0
    nothing = mask_targets(0, 0)
    assert float(class_error(right, nothing, criterion.match(right, nothing))) == 100.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matching_in_half_precision_sees_finite_costs(dtype: torch.dtype) -> None:
    """Logits as large as float16 holds, boxes without extent, more objects than queries."""
    logits = torch.tensor([60000.0, -60000.0, 0.0]).expand(2, 1, 4, 3).to(dtype)
    codes = torch.tensor([[0.0, 1.0, 0.0, 1e-7], [1.0, 1.0, 1.0, 1.0]]).repeat(2, 1).to(dtype)
    predictions = Predictions(logits, codes.expand(2, 1, 4, 4))
    one_pixel = torch.tensor([[0.5, 0.5, 1e-3, 1e-3]]).expand(6, 4)
    targets = (Targets(torch.arange(6) % 3, one_pixel),)
    weights = {"class": 2.0, "l1": 5.0, "giou": 2.0}
    for classes in (FocalClasses(eps=1e-8), FocalClasses()):
        criterion = SetCriterion(
            classes=classes, codec=NormalizedBox2D(), cost=weights, loss=weights
        )
        assert bool(criterion.costs(predictions, targets).isfinite().all())
        assert len(criterion.match(predictions, targets).queries) == 2 * 4
        losses = criterion(predictions, targets)
        assert all(bool(loss.isfinite()) for loss in losses.values())
