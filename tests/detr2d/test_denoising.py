from __future__ import annotations

import pytest
import torch

from detr2d.boxes import NormalizedBox2D
from detr2d.criterion import SetCriterion
from detr2d.denoising import (
    ContrastiveDenoising,
    DenoisingLoss,
    Layout,
    denoising_mask,
    known_matches,
    split_denoising,
)
from detr2d.losses import FocalClasses
from detr2d.structures import DenoisingPredictions, Predictions, Targets


def targets(*counts: int) -> list[Targets]:
    return [Targets(torch.randint(0, 3, (n,)), torch.rand(n, 4) * 0.3 + 0.3) for n in counts]


def block(**settings) -> ContrastiveDenoising:
    return ContrastiveDenoising(3, 8, **settings)


def criterion() -> SetCriterion:
    weights = {"class": 1.0, "l1": 5.0, "giou": 2.0}
    return SetCriterion(classes=FocalClasses(), codec=NormalizedBox2D(), cost=weights, loss=weights)


@pytest.mark.parametrize(
    "count, counts, groups",
    [(100, (3, 2), 33), (100, (30, 1), 3), (100, (120,), 1), (5, (1,), 10), (100, (0, 0), 1)],
)
def test_groups_share_about_twice_the_count(count: int, counts, groups: int) -> None:
    layout = block(count=count).layout(targets(*counts))
    assert layout == Layout(groups, max(counts))
    assert layout.num_queries == 2 * groups * max(counts)


def test_positives_stay_near_their_boxes_and_negatives_are_further() -> None:
    found = block(count=100, label_noise=0.0)(objects := targets(4, 4))
    boxes = found.reference.sigmoid().unflatten(1, (-1, 2, 4))  # (B, groups, 2, T, 4)
    for image, target in enumerate(objects):
        size = target.boxes[:, 2:].repeat(1, 2)
        moved = (boxes[image] - target.boxes).abs() / size
        # A corner of a positive moves by at most 0.2 of the size, a side by twice that.
        assert float(moved[:, 0, :, :2].max()) <= 0.2 + 1e-5
        assert float(moved[:, 0, :, 2:].max()) <= 0.4 + 1e-5
        assert float(moved[:, 1, :, :2].max()) <= 0.4 + 1e-5
        corner = (moved[..., :2] + moved[..., 2:] / 2).amax(-1)
        assert bool((corner[:, 1] >= 0.2 - 1e-5).all())


def test_without_noise_queries_are_the_objects() -> None:
    noiseless = block(label_noise=0.0, box_noise=0.0)
    (target,) = objects = targets(2)
    found = noiseless(objects)
    torch.testing.assert_close(found.reference.sigmoid()[0, :2], target.boxes)
    torch.testing.assert_close(found.query[0, 2:4], noiseless.labels(target.labels))


def test_labels_are_replaced_as_often_as_asked() -> None:
    noisy = block(count=1000, label_noise=0.5, box_noise=0.0)
    (target,) = objects = [Targets(torch.tensor([1]), torch.full((1, 4), 0.5))]
    found = noisy(objects)
    kept = (found.query[0] == noisy.labels(target.labels)).all(-1).float().mean()
    assert float(kept) == pytest.approx(1 - 0.25 * 2 / 3, abs=0.04)  # a third draws itself again


def test_images_with_fewer_objects_have_empty_slots() -> None:
    found = block(count=50)(targets(2, 1))
    slots = found.query[1].unflatten(0, (-1, 2))
    assert bool((slots[:, 1] == 0).all()) and bool((slots[:, 0] != 0).any())
    assert bool((found.reference[1].unflatten(0, (-1, 2))[:, 1] == 0).all())


def test_mask_hides_other_groups_and_all_denoising_from_matching() -> None:
    mask = denoising_mask(Layout(groups=2, objects=1), 2, torch.device("cpu"))
    assert mask.int().tolist() == [
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
    ]
    assert not bool(denoising_mask(Layout(1, 0), 3, torch.device("cpu")).any())


def test_positives_know_their_objects() -> None:
    matches = known_matches(Layout(groups=2, objects=2), [2, 1, 0], num_layers=1)
    pairs = list(zip(matches.images.tolist(), matches.queries.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 1), (0, 4), (0, 5), (1, 0), (1, 4)]
    assert matches.objects.tolist() == [0, 1, 0, 1, 0, 0]


def test_right_answers_cost_little_and_groups_do_not_add_up() -> None:
    (target,) = objects = targets(2)
    loss, totals = DenoisingLoss(criterion()), []
    for groups in (1, 4):
        logits = torch.full((1, 1, 4 * groups, 3), -9.0)
        codes = torch.rand(1, 1, 4 * groups, 4) * 0.1 + 0.2
        for group in range(groups):
            codes[0, 0, 4 * group : 4 * group + 2] = target.boxes + 0.01
            for k, label in enumerate(target.labels.tolist()):
                logits[0, 0, 4 * group + k, label] = 9.0
        found = loss(DenoisingPredictions(logits, codes, groups, 2), objects)
        assert float(found["class"]) < 1e-6
        assert float(found["l1"]) == pytest.approx(5 * 0.04, rel=1e-3)
        totals.append(float(sum(found.values())))
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_no_object_gives_zero_losses_under_all_names() -> None:
    predictions = DenoisingPredictions(torch.zeros(2, 1, 0, 3), torch.zeros(2, 1, 0, 4), 1, 0)
    found = DenoisingLoss(criterion())(predictions, targets(0))
    assert set(found) == {
        "class", "l1", "giou", "layer0/class", "layer0/l1", "layer0/giou"
    }  # fmt: skip
    assert all(float(value) == 0 for value in found.values())


def test_splitting_sets_the_first_queries_apart() -> None:
    logits, codes = torch.randn(2, 1, 7, 3), torch.rand(2, 1, 7, 4)
    found = split_denoising(Predictions(logits, codes), Layout(groups=1, objects=2))
    assert found.denoising is not None
    torch.testing.assert_close(torch.cat([found.denoising.codes, found.codes], 2), codes)
    assert found.logits.shape[2] == 3
