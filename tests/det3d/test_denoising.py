from __future__ import annotations

import math

import pytest
import torch

from det3d.boxes import MetricBox3D
from det3d.denoising import (
    Denoised,
    DenoisingConfig,
    DenoisingLoss,
    blocked_between,
    draw_noise,
    noisy_objects,
)
from det3d.geometry import Region
from detr2d.losses import FocalClasses
from detr2d.structures import Targets
from tests.helpers.rigs import random_boxes

CONFIG = DenoisingConfig(groups=3)
REGION = Region()


def make_targets(*counts: int) -> tuple[Targets, ...]:
    return tuple(Targets(torch.randint(0, 10, (n,)), random_boxes(n)) for n in counts)


def test_without_noise_every_reference_is_the_true_centre() -> None:
    targets = make_targets(4, 2)
    noisy = noisy_objects(
        targets, torch.zeros(18, 3), config=CONFIG, region=REGION, num_queries=7, num_classes=10
    )
    assert noisy.reference.shape == (2, 12, 3)
    centres = REGION.to_metres(noisy.reference[noisy.scenes, noisy.places])
    torch.testing.assert_close(centres, noisy.boxes[:, :3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(centres[:4], targets[0].boxes[:, :3], atol=1e-4, rtol=1e-4)
    assert noisy.labels.tolist() == torch.cat([t.labels for t in targets]).repeat(3).tolist()
    assert not noisy.reference[1, 2:4].any()  # the second scene has two objects of four


def test_shifts_are_half_sizes_and_large_ones_become_background() -> None:
    box = torch.tensor([[1.0, 2, 0, 4.0, 2.0, 1.0, 0.3, 0, 0]])
    noise = torch.tensor([[0.5, 0, 0], [0, 0.5, 0.5], [1.0, 0, 0]])
    noisy = noisy_objects(
        (Targets(torch.tensor([3]), box),),
        noise, config=CONFIG, region=REGION, num_queries=2, num_classes=10,
    )  # fmt: skip
    shift = REGION.to_metres(noisy.reference[0]) - box[:, :3]
    expected = torch.tensor([[0.5, 0, 0], [0, 1.0, 0.25], [1.0, 0, 0]])
    torch.testing.assert_close(shift, expected, atol=1e-5, rtol=1e-4)
    assert noisy.labels.tolist() == [3, 3, 10]


def test_groups_are_hidden_from_each_other_and_from_the_queries() -> None:
    blocked = blocked_between(2, 2, 3, torch.device("cpu"))
    assert blocked.shape == (7, 7)
    assert not blocked[:2, :2].any() and blocked[:2, 2:4].all() and not blocked[:2, 4:].any()
    assert blocked[4:, :4].all() and not blocked[4:, 4:].any()


def test_noise_covers_the_cube() -> None:
    noise = draw_noise(make_targets(40, 10), 4)
    assert noise.shape == (200, 3) and float(noise.min()) < -0.9 and float(noise.max()) > 0.9


def test_loss_is_small_for_the_truth_and_blind_to_rotation() -> None:
    codec = MetricBox3D((1.0,) * 10)
    loss = DenoisingLoss(
        CONFIG, classes=FocalClasses(), codec=codec, class_weight=2.0, l1_weight=0.25
    )
    boxes, labels = random_boxes(6), torch.randint(0, 10, (6,))
    codes = codec.encode(boxes).expand(2, -1, -1).clone()
    logits = torch.full((2, 6, 10), -12.0)
    logits[:, torch.arange(6), labels] = 12.0
    codes[..., 6:8] += 0.7
    found = loss(Denoised(logits, codes, labels, boxes))
    assert set(found) == {
        "denoising_class", "denoising_l1", "layer0/denoising_class", "layer0/denoising_l1",
    }  # fmt: skip
    assert all(float(value) < 1e-5 for value in found.values())
    codes[..., 0] += 1.0
    off = loss(Denoised(logits, codes, labels, boxes))
    assert float(off["denoising_l1"]) == pytest.approx(0.25, rel=1e-4)
    assert loss.share == pytest.approx(math.pi / 6 * 0.75**3)
