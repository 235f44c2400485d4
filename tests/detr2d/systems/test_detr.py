from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detr2d.backbones.resnet import ResNetConfig
from detr2d.structures import ImageBatch, Predictions, Targets, concatenate_images
from detr2d.systems.detr import DETRConfig
from detr2d.systems.panoptic import PanopticDETRConfig
from detr2d.transformer import TransformerConfig

CLASSES = ("cat", "dog", "grass")
TRANSFORMER = TransformerConfig(
    channels=32, heads=4, hidden=64, dropout=0.0, encoder_layers=1, decoder_layers=2, num_queries=6
)


def backbone(*stages: int) -> ResNetConfig:
    return ResNetConfig(depth=10, widths=(8, 8, 16, 16), out_stages=stages, frozen_stages=1)


BOXES = DETRConfig(backbone=backbone(4), transformer=TRANSFORMER)
MASKS = PanopticDETRConfig(backbone=backbone(1, 2, 3, 4), transformer=TRANSFORMER, num_things=2)
both = pytest.mark.parametrize("system", [BOXES, MASKS], ids=["boxes", "masks"])


def sample(height: int, width: int, objects: int = 2) -> ImageBatch:
    centre, size = torch.rand(objects, 2) * 0.4 + 0.3, torch.rand(objects, 2) * 0.2 + 0.1
    masks = torch.rand(objects, height, width) > 0.5
    return ImageBatch(
        images=torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8),
        image_sizes=torch.tensor([[float(height), float(width)]]),
        tokens=("1",),
        original_sizes=torch.tensor([[2.0 * height, 2.0 * width]]),
        targets=(Targets(torch.randint(0, 3, (objects,)), torch.cat([centre, size], 1), masks),),
    )


def predict(system: DETRConfig | PanopticDETRConfig, batch: ImageBatch) -> Predictions:
    torch.manual_seed(1)
    with torch.no_grad():
        return system.build(CLASSES).eval()(batch)


@both
def test_what_lies_in_the_padding_changes_nothing(
    system: DETRConfig | PanopticDETRConfig,
) -> None:
    batch = concatenate_images([sample(64, 96), sample(80, 70)])
    noise = torch.randint_like(batch.images, 256)
    noisy = replace(batch, images=batch.images.where(~batch.padding.unsqueeze(1), noise))
    torch.testing.assert_close(predict(system, noisy).codes, predict(system, batch).codes)


@both
def test_predictions_are_one_class_more_and_boxes_in_the_image(
    system: DETRConfig | PanopticDETRConfig,
) -> None:
    found = predict(system, sample(64, 96))
    assert found.logits.shape == (2, 1, 6, 4) and found.codes.shape == (2, 1, 6, 4)
    assert bool(((found.codes > 0) & (found.codes < 1)).all())


@both
@pytest.mark.parametrize("objects", [0, 2])
def test_every_weight_that_is_not_frozen_is_trained(
    system: DETRConfig | PanopticDETRConfig, objects: int
) -> None:
    model, batch = system.build(CLASSES), sample(64, 96, objects)
    losses = system.build_criterion(CLASSES)(model(batch), batch.targets)
    torch.stack(list(losses.values())).sum().backward()
    missing = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not missing
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {"conv1", "layer1"}


@pytest.mark.parametrize("positions", ["sine", "learned"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_every_option_runs(positions: str, norm: str) -> None:
    options = {"positions": positions, "transformer": replace(TRANSFORMER, norm=norm)}
    found = predict(replace(BOXES, **options), sample(64, 96))
    assert bool(torch.isfinite(found.logits).all())


def test_half_precision_keeps_boxes_and_masks_in_float32() -> None:
    model, batch = MASKS.build(CLASSES).eval(), sample(64, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(batch)
    assert found.masks is not None
    assert found.codes.dtype == found.masks.logits.dtype == torch.float32


def test_statistics_are_logged_not_trained() -> None:
    batch = sample(64, 96)
    predictions = predict(BOXES, batch)
    assert set(BOXES.statistics(predictions, batch.targets)) == {"cardinality_error"}
    assert "cardinality_error" not in BOXES.build_criterion(CLASSES)(predictions, batch.targets)


def test_every_query_is_a_detection_and_masks_are_at_the_original_size() -> None:
    (found,) = MASKS.postprocess(predict(MASKS, sample(64, 96)))
    assert len(found) == 6 and bool((found.scores.diff() <= 0).all())
    assert found.masks is not None and found.masks.shape == (6, 128, 192)
    assert found.segments is not None and len(found.segments) == 0  # none is sure enough


def test_sure_queries_become_segments_and_stuff_is_joined() -> None:
    found = predict(MASKS, sample(64, 96))
    logits = torch.full((2, 1, 6, 4), -9.0)
    logits[..., 3] = 9.0  # no object
    logits[:, :, 0, :] = torch.tensor([9.0, -9.0, -9.0, -9.0])
    logits[:, :, (1, 2), :] = torch.tensor([-9.0, -9.0, 9.0, -9.0])  # grass, twice
    masks = torch.full_like(found.masks.logits, -9.0)
    masks[:, 0, :8], masks[:, 1, 8:, :12], masks[:, 2, 8:, 12:] = 9.0, 9.0, 9.0
    sure = replace(found, logits=logits, masks=replace(found.masks, logits=masks))
    (detections,) = MASKS.postprocess(sure)
    assert detections.segments is not None
    assert detections.segments.labels.tolist() == [0, 2]
    assert detections.segments.id_map.unique().tolist() == [1, 2]


def test_panoptic_results_need_masks() -> None:
    with pytest.raises(ValueError, match="needs predictions with masks"):
        MASKS.postprocess(replace(predict(MASKS, sample(64, 96)), masks=None))


@both
def test_one_image_is_learned_by_heart(system: DETRConfig | PanopticDETRConfig) -> None:
    model, criterion, batch = system.build(CLASSES), system.build_criterion(CLASSES), sample(64, 96)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    totals = []
    for _ in range(60):
        loss = torch.stack(list(criterion(model(batch), batch.targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < totals[0] / 2
