from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detr2d.backbones.resnet import ResNetConfig
from detr2d.deformable import DeformableConfig
from detr2d.structures import ImageBatch, Predictions, concatenate_images
from detr2d.systems.deformable_detr import DeformableDETRConfig
from tests.helpers.images import CLASSES, pixel_boxes, sample

PLAIN = DeformableDETRConfig(
    backbone=ResNetConfig(
        depth=10, widths=(8, 8, 16, 16), out_stages=(2, 3, 4), frozen_stages=1, norm="batch"
    ),
    transformer=DeformableConfig(
        channels=32, heads=4, points=2, hidden=64, dropout=0.0, encoder_layers=1, decoder_layers=2
    ),
    num_queries=6,
)
SINGLE = replace(PLAIN, backbone=replace(PLAIN.backbone, out_stages=(4,)), extra_levels=0)
DILATED = replace(SINGLE, backbone=replace(SINGLE.backbone, depth=50, dilate_last=True))
REFINED = replace(PLAIN, refine_boxes=True)
TWO_STAGE = replace(REFINED, two_stage=True)
DENSE = replace(TWO_STAGE, proposals="dense", neck="fpn")
ALL_TOKENS = replace(DENSE, num_queries=400)  # rounding chooses no others
PUBLISHED = {
    "single-scale": SINGLE,
    "single-scale-dc5": DILATED,
    "plain": PLAIN,
    "refined": REFINED,
    "two-stage": TWO_STAGE,
}


def each(systems: dict[str, DeformableDETRConfig]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("system", systems.values(), ids=systems.keys())


every = each({**PUBLISHED, "dense": DENSE})


def predict(system: DeformableDETRConfig, batch: ImageBatch) -> Predictions:
    torch.manual_seed(1)
    with torch.no_grad():
        return system.build(CLASSES).eval()(batch)


def total_loss(system: DeformableDETRConfig, batch: ImageBatch) -> torch.Tensor:
    torch.manual_seed(1)
    model = system.build(CLASSES)
    losses = system.build_criterion(CLASSES)(model(batch), batch.targets)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    return total.detach()


@every
def test_what_lies_in_the_padding_changes_nothing(system: DeformableDETRConfig) -> None:
    batch = concatenate_images([sample(64, 96), sample(80, 70)])
    noise = torch.randint_like(batch.images, 256)
    noisy = replace(batch, images=batch.images.where(~batch.padding.unsqueeze(1), noise))
    torch.testing.assert_close(predict(system, noisy).codes, predict(system, batch).codes)


@every
def test_predictions_are_classes_and_boxes_in_the_image(system: DeformableDETRConfig) -> None:
    found = predict(system, sample(64, 96))
    assert found.logits.shape == (2, 1, 6, 3) and found.codes.shape == (2, 1, 6, 4)
    assert bool(((found.codes > 0) & (found.codes < 1)).all())
    assert found.references is not None and found.references.shape == (3, 1, 6, 2)
    assert found.sampling_points is not None and found.sampling_points.shape[:3] == (2, 1, 6)
    (detections,) = system.postprocess(found)
    assert len(detections) == 18  # every pair of query and class, at most 100


@every
@pytest.mark.parametrize("objects", [0, 2])
def test_every_weight_that_is_not_frozen_is_trained(
    system: DeformableDETRConfig, objects: int
) -> None:
    model, batch = system.build(CLASSES), sample(64, 96, objects)
    losses = system.build_criterion(CLASSES)(model(batch), batch.targets)
    torch.stack(list(losses.values())).sum().backward()
    missing = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not missing


def test_first_scores_are_low_and_first_boxes_small_or_the_references() -> None:
    plain, proposed = predict(PLAIN, sample(64, 96)), predict(TWO_STAGE, sample(64, 96))
    assert float(plain.logits.sigmoid().mean()) == pytest.approx(0.01, rel=1)
    small = torch.tensor(-2.0).sigmoid().expand(2, 1, 6, 2)
    torch.testing.assert_close(plain.codes[..., 2:], small)
    assert plain.references is not None and proposed.references is not None
    torch.testing.assert_close(plain.codes[..., :2], plain.references[:-1])
    torch.testing.assert_close(proposed.codes[..., :2], proposed.references[:-1])


def test_heads_are_shared_without_refinement() -> None:
    plain, refined = PLAIN.build(CLASSES), REFINED.build(CLASSES)
    assert len(plain.class_heads) == len(plain.box_heads) == 1
    assert len(refined.class_heads) == len(refined.box_heads) == 2
    with pytest.raises(ValueError, match=r"two_stage needs system\.refine_boxes"):
        replace(PLAIN, two_stage=True)


def test_references_follow_the_boxes_with_refinement_only() -> None:
    for system, moves in ((PLAIN, False), (REFINED, True)):
        torch.manual_seed(0)
        model = system.build(CLASSES).eval()
        for head in model.box_heads:
            torch.nn.init.normal_(head[-1].weight)
        with torch.no_grad():
            found = model(sample(64, 96))
        assert found.references is not None
        assert bool((found.references[0] != found.references[1]).any()) == moves
        if moves:
            torch.testing.assert_close(found.references[1:], found.codes[..., :2])


def test_layers_start_from_the_classes_that_dense_proposals_say() -> None:
    torch.manual_seed(1)
    model, heard = DENSE.build(CLASSES).eval(), []
    with torch.no_grad():
        model.queries.proposals.class_head.weight.normal_()
    model.queries.proposals.register_forward_hook(lambda *call: heard.append(call[-1]))
    for head in model.class_heads:
        torch.nn.init.zeros_(head.weight)  # its bias is the prior, with which proposals begin too
    with torch.no_grad():
        found = model(sample(64, 96))
    assert float(heard[0].logits.std()) > 0.1
    torch.testing.assert_close(found.logits, heard[0].logits.expand_as(found.logits))


def test_proposals_are_trained_to_find_objects_of_any_class() -> None:
    batch = sample(64, 96)
    criterion, predictions = TWO_STAGE.build_criterion(CLASSES), predict(TWO_STAGE, batch)
    losses = criterion(predictions, batch.targets)
    assert {name for name in losses if name.startswith("proposals/")} == {
        "proposals/class", "proposals/l1", "proposals/giou",
    }  # fmt: skip
    relabelled = [replace(batch.targets[0], labels=(batch.targets[0].labels + 1) % 3)]
    others = criterion(predictions, relabelled)
    assert torch.equal(losses["proposals/class"], others["proposals/class"])
    assert not torch.equal(losses["class"], others["class"])


@each({**PUBLISHED, "dense": ALL_TOKENS})
def test_half_precision_trains_close_to_float32(system: DeformableDETRConfig) -> None:
    batch = concatenate_images([sample(64, 96), sample(80, 70)])
    single = total_loss(system, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = total_loss(system, batch)
    assert float(half) == pytest.approx(float(single), rel=0.02)


@every
@pytest.mark.parametrize("case", ["none", "more objects than queries", "one pixel", "mixed"])
def test_hostile_targets_give_finite_losses(system: DeformableDETRConfig, case: str) -> None:
    batch = {
        "none": sample(64, 96, 0),
        "more objects than queries": sample(64, 96, 20),
        "one pixel": pixel_boxes(64, 96, 3),
        "mixed": concatenate_images([sample(64, 96, 0), sample(80, 70, 9)]),
    }[case]
    assert bool(total_loss(system, batch).isfinite())


def test_images_smaller_than_the_number_of_queries_give_fewer_proposals() -> None:
    found = predict(replace(TWO_STAGE, num_queries=900), sample(96, 96))
    assert found.logits.shape[2] == 12 * 12 + 6 * 6 + 3 * 3 + 2 * 2


@each(PUBLISHED)
def test_one_image_is_learned_by_heart(system: DeformableDETRConfig) -> None:
    totals = [sum(losses.values()) for losses in learned_by_heart(system, steps=40)]
    assert totals[-1] < totals[0] / 2


def test_dense_proposals_learn_one_image_by_heart() -> None:
    """On their own: the layers correct what they say, and do not train the tokens."""
    names = ("proposals/class", "proposals/box", "proposals/overlap")
    found = [sum(losses[n] for n in names) for losses in learned_by_heart(DENSE, steps=120)]
    assert found[-1] < found[0] / 2


def learned_by_heart(system: DeformableDETRConfig, steps: int) -> list[dict[str, float]]:
    """The losses of each step on the same image."""
    model, criterion, batch = system.build(CLASSES), system.build_criterion(CLASSES), sample(64, 96)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    rows = []
    for _ in range(steps):
        losses = criterion(model(batch), batch.targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        rows.append({name: float(value.detach()) for name, value in losses.items()})
    return rows
