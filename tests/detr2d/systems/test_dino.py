from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detr2d.backbones.resnet import ResNetConfig
from detr2d.backbones.swin import SwinConfig
from detr2d.decoder import prior_bias
from detr2d.deformable import DeformableConfig
from detr2d.structures import ImageBatch, Predictions, concatenate_images
from detr2d.systems.dino import DINO, DINOConfig
from tests.helpers.images import CLASSES, pixel_boxes, sample

FOUR = DINOConfig(
    backbone=ResNetConfig(
        depth=10, widths=(8, 8, 16, 16), out_stages=(2, 3, 4), frozen_stages=1, norm="batch"
    ),
    transformer=DeformableConfig(
        channels=32, heads=4, points=2, hidden=64, dropout=0.0, encoder_layers=1, decoder_layers=3
    ),
    num_queries=6,
)
FIVE = replace(FOUR, backbone=replace(FOUR.backbone, out_stages=(1, 2, 3, 4)))
PLAIN = replace(FOUR, denoising=None)
SWIN = replace(
    FOUR, backbone=SwinConfig(channels=8, depths=(1, 2, 2, 1), heads=(1, 2, 2, 4), window=4)
)
DENSE = replace(FOUR, proposals="dense", neck="fpn")
every = pytest.mark.parametrize(
    "system",
    [FOUR, FIVE, PLAIN, SWIN, DENSE],
    ids=["4-scale", "5-scale", "no-denoising", "swin", "dense"],
)


def build(system: DINOConfig) -> DINO:
    torch.manual_seed(1)
    return system.build(CLASSES)


def predict(system: DINOConfig, batch: ImageBatch) -> Predictions:
    with torch.no_grad():
        return build(system).eval()(batch)


def train(system: DINOConfig, batch: ImageBatch) -> tuple[DINO, dict[str, torch.Tensor]]:
    """A model after one backward pass, and its losses; the same draws each time."""
    model = build(system)
    torch.manual_seed(2)
    losses = system.build_criterion(CLASSES)(model(batch), batch.targets)
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    return model, losses


def total(losses: dict[str, torch.Tensor]) -> float:
    return float(torch.stack(list(losses.values())).sum().detach())


@every
def test_predictions_are_classes_and_boxes_in_the_image(system: DINOConfig) -> None:
    found = predict(system, sample(64, 96))
    assert found.logits.shape == (3, 1, 6, 3) and found.codes.shape == (3, 1, 6, 4)
    assert found.denoising is None and found.proposals is not None
    assert found.proposals.logits.shape == (1, 1, 128 if system is DENSE else 6, 3)
    (detections,) = system.postprocess(found)
    assert len(detections) == 18


@every
def test_what_lies_in_the_padding_changes_nothing(system: DINOConfig) -> None:
    batch = concatenate_images([sample(64, 96), sample(80, 70)])
    noise = torch.randint_like(batch.images, 256)
    noisy = replace(batch, images=batch.images.where(~batch.padding.unsqueeze(1), noise))
    torch.testing.assert_close(predict(system, noisy).codes, predict(system, batch).codes)


@every
@pytest.mark.parametrize("objects", [0, 2])
def test_every_weight_that_is_not_frozen_is_trained(system: DINOConfig, objects: int) -> None:
    model, _ = train(system, sample(64, 96, objects))
    assert not {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}


def test_denoising_queries_do_not_change_what_the_others_say() -> None:
    batch, model = sample(64, 96), build(FOUR).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        trained, evaluated = model(batch), model.eval()(batch)
    assert trained.denoising is not None
    torch.testing.assert_close(trained.codes, evaluated.codes)
    torch.testing.assert_close(trained.logits, evaluated.logits)


def test_denoising_is_for_training_with_targets_only() -> None:
    batch = sample(64, 96)
    assert build(PLAIN).train()(batch).denoising is None
    assert build(FOUR).train()(replace(batch, targets=None)).denoising is None


def test_boxes_are_trained_through_the_next_layer_but_no_further() -> None:
    """Look forward twice: the box of layer 1 depends on layer 0's queries, that of 2 does not."""
    model, batch = build(PLAIN).eval(), sample(64, 96)
    torch.nn.init.normal_(model.box_head[-1].weight, std=0.1)
    for layer, reaches in ((1, True), (2, False)):
        model.zero_grad(set_to_none=True)
        # All paths but the references' are cut by taking the gradient of a later layer's box
        # with the queries handed on detached.
        handles = [
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].detach(), *inputs[1:]))
            for module in list(model.decoder)[1:]
        ]
        model(batch).codes[layer].sum().backward()
        for handle in handles:
            handle.remove()
        gradient = model.decoder[0].feed_forward[0].weight.grad
        assert (gradient is not None and bool(gradient.any())) == reaches


def test_first_boxes_are_the_proposals_and_contents_go_by_rank() -> None:
    batch = sample(64, 96)
    found = predict(FOUR, batch)
    assert found.proposals is not None
    torch.testing.assert_close(found.codes[0], found.proposals.codes[0], atol=2e-3, rtol=0)
    best = found.proposals.logits[0, 0].max(-1).values
    assert bool((best.diff() <= 0).all())


def test_layers_start_from_the_classes_that_dense_proposals_say() -> None:
    model, heard = build(DENSE), []
    with torch.no_grad():
        model.queries.proposals.class_head.weight.normal_()
    model.queries.proposals.register_forward_hook(lambda *call: heard.append(call[-1]))
    torch.nn.init.zeros_(model.class_head.weight)  # its bias is the prior, as the proposals' is
    found = model(sample(64, 96))
    assert found.denoising is not None and float(heard[0].logits.std()) > 0.1
    torch.testing.assert_close(found.logits, heard[0].logits.expand_as(found.logits))
    noised = found.denoising.logits
    torch.testing.assert_close(noised, torch.full_like(noised, prior_bias()))


def test_losses_have_the_names_of_their_stages() -> None:
    _, losses = train(FOUR, sample(64, 96))
    terms = {"class", "l1", "giou"}
    layers = {f"layer{i}/{term}" for i in (0, 1) for term in terms} | terms
    assert set(losses) == {
        *layers, *(f"denoising/{name}" for name in layers), *(f"proposals/{t}" for t in terms)
    }  # fmt: skip


@every
def test_half_precision_trains_close_to_float32(system: DINOConfig) -> None:
    batch = concatenate_images([sample(64, 96), sample(80, 70)])
    system = replace(system, num_queries=100)  # of a handful, rounding may choose others
    _, single = train(system, batch)
    with torch.autocast("cpu", torch.bfloat16):
        _, half = train(system, batch)
    assert total(half) == pytest.approx(total(single), rel=0.02)


@every
@pytest.mark.parametrize("case", ["none", "more objects than queries", "one pixel", "mixed"])
def test_hostile_targets_give_finite_losses(system: DINOConfig, case: str) -> None:
    batch = {
        "none": sample(64, 96, 0),
        "more objects than queries": sample(64, 96, 20),
        "one pixel": pixel_boxes(64, 96, 3),
        "mixed": concatenate_images([sample(64, 96, 0), sample(80, 70, 9)]),
    }[case]
    _, losses = train(system, batch)
    assert all(bool(loss.isfinite()) for loss in losses.values())


def test_one_image_is_learned_by_heart() -> None:
    model, criterion, batch = build(FOUR), FOUR.build_criterion(CLASSES), sample(64, 96)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    totals = []
    for _ in range(40):
        losses = criterion(model(batch), batch.targets)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < totals[0] / 2
