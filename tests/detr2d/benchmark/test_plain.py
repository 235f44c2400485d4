"""Programs on the definitions of all operators compute the same, and nothing stays exchanged."""

from __future__ import annotations

import torch

from detr2d.backbones import residual
from detr2d.backbones.resnet import ResNetConfig
from detr2d.benchmark.plain import PLAIN, with_plain_operators
from detr2d.benchmark.subjects import noise_batch
from detr2d.deformable import DeformableConfig
from detr2d.systems.deformable_detr import DeformableDETRConfig


def test_every_operator_is_exchanged_while_a_program_runs_and_put_back() -> None:
    ours = [getattr(module, name) for module, name, _ in PLAIN]
    run = with_plain_operators(lambda: [getattr(module, name) for module, name, _ in PLAIN])
    assert run() == [definition for _, _, definition in PLAIN]
    assert [getattr(module, name) for module, name, _ in PLAIN] == ours
    assert residual.convolve_norm in ours
    assert not set(run()) & set(ours)


def test_a_backbone_computes_the_same_on_definitions() -> None:
    config = ResNetConfig(
        depth=50, widths=(8, 8, 16, 16), layout="caffe", deformable_stages=(3, 4), out_stages=(4,)
    )
    backbone, images = config.build(), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = with_plain_operators(lambda: backbone(images))().maps[0]
        torch.testing.assert_close(backbone(images).maps[0], expected, rtol=1e-4, atol=1e-4)


def test_a_deformable_detr_computes_the_same_on_definitions() -> None:
    torch.manual_seed(0)
    system = DeformableDETRConfig(
        backbone=ResNetConfig(depth=10, widths=(8, 8, 16, 16), out_stages=(2, 3, 4)),
        transformer=DeformableConfig(channels=32, heads=4, hidden=32, dropout=0.0),
        num_queries=10,
    )
    model, batch = system.build(("car",)).eval(), noise_batch((64, 96), images=2, objects=1)
    with torch.no_grad():
        expected = with_plain_operators(lambda: model(batch))()
        torch.testing.assert_close(model(batch).logits, expected.logits, rtol=1e-4, atol=1e-4)
