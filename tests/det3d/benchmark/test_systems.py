"""What the benchmark calls plain is what our systems compute."""

from __future__ import annotations

from dataclasses import replace

import torch

from det3d.benchmark.pieces import ring_rig
from det3d.benchmark.systems import (
    PETR_C5,
    PLAIN_3D,
    PointByPoint,
    SinesByConvolution,
    make_scene_subject,
    plain_petr,
)
from det3d.geometry import Region
from det3d.ray_positions import Depths, RayPositions, RigSine, token_padding
from det3d.systems.detr3d import DETR3DConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.benchmark.plain import with_plain_operators
from detr2d.benchmark.steps import our_step
from tests.helpers.rigs import random_scene

CANVAS, SIZE = (64, 112), (4, 7)


def test_points_one_by_one_are_points_along_rays() -> None:
    rig = ring_rig(3, CANVAS)
    rig.camera_from_ref[0, 1, :3, 3] = torch.tensor([0.3, -1.0, 2.0])
    rays = RayPositions(Region(), Depths(count=8), 16)
    found, expected = (part(rig, CANVAS, SIZE) for part in (PointByPoint(rays), rays))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_convolutions_embed_as_linear_layers_do() -> None:
    cells, padding = RigSine(16), token_padding(ring_rig(3, (48, 112)), CANVAS, SIZE)
    torch.testing.assert_close(
        SinesByConvolution(cells)(padding), cells(padding), atol=1e-5, rtol=1e-4
    )


def test_a_plain_petr_predicts_the_same() -> None:
    tiny = ResNetConfig(depth=10, widths=(8, 8, 16, 16), out_stages=(4,))
    config = replace(PETR_C5, backbone=tiny, channels=32, num_queries=20, num_layers=2, hidden=32)
    torch.manual_seed(0)
    model, scene = config.build(("car",)).eval(), random_scene()
    for name, parameter in model.named_parameters():
        if not name.startswith(("backbone", "queries.points")):
            torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        expected = model(scene)
        found = with_plain_operators(lambda: plain_petr(model)(scene), PLAIN_3D)()
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.codes, expected.codes, atol=1e-3, rtol=1e-4)


def test_a_plain_detr3d_trains_the_same() -> None:
    tiny = ResNetConfig(depth=10, widths=(8, 8, 16, 16), norm="frozen", deformable_stages=())
    system = DETR3DConfig(
        backbone=tiny, channels=32, num_queries=20, num_layers=2, hidden=32, dropout=0.0
    )
    subject = make_scene_subject(system, CANVAS, torch.device("cpu"))
    step = our_step(subject, "float32")
    found, expected = dict(step()), dict(with_plain_operators(step, PLAIN_3D)())
    assert expected["gradient norm"] > 0
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-4)
