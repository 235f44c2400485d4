from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from det3d.geometry import Region
from det3d.monocular import MonocularConfig
from det3d.structures import SceneBatch
from det3d.systems.detr3d import DETR3D, DETR3DConfig, ring_anchors
from detr2d.backbones.resnet import ResNetConfig
from detr2d.images import Standardization
from tests.helpers.rigs import random_scene, ring_rig

CLASSES = tuple(f"class{index}" for index in range(10))
SMALL = DETR3DConfig(
    backbone=ResNetConfig(depth=10, widths=(8, 8, 16, 16), norm="batch"),
    extra_levels=0,
    channels=16,
    num_queries=20,
    num_layers=2,
    heads=2,
    hidden=32,
    dropout=0.0,
    rig="free",
)
FROM_SCRATCH = replace(
    SMALL, centre_step=0.25, images=Standardization(), monocular=MonocularConfig(num_queries=8)
)
BOTH = pytest.mark.parametrize("config", [SMALL, FROM_SCRATCH], ids=["plain", "from scratch"])


def make_model(config: DETR3DConfig = SMALL) -> DETR3D:
    """A model whose zero-initialised heads are shaken, so that outputs depend on inputs."""
    model = config.build(CLASSES).eval()
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone"):
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        model.queries.anchors.copy_(torch.rand(20, 3))
    return model


def select(scene: SceneBatch, cameras: list[int]) -> SceneBatch:
    return replace(scene, images=scene.images[:, cameras], rig=scene.rig.select(cameras))


def test_shapes_of_all_outputs() -> None:
    predictions = make_model()(random_scene(scenes=2))
    assert predictions.logits.shape == (2, 2, 20, 10)
    assert predictions.codes.shape == (2, 2, 20, 10)
    assert predictions.references.shape == (3, 2, 20, 3)
    assert predictions.sampling_points.shape == (2, 2, 20, 8, 3)


@BOTH
def test_permuting_cameras_changes_nothing(config: DETR3DConfig) -> None:
    model, scene = make_model(config), random_scene()
    plain, moved = model(scene), model(select(scene, [3, 5, 0, 1, 4, 2]))
    assert (plain.logits - moved.logits).abs().max() < 1e-5
    assert (plain.codes - moved.codes).abs().max() < 1e-4  # metres


@BOTH
def test_an_absent_camera_changes_nothing(config: DETR3DConfig) -> None:
    model, scene = make_model(config), random_scene()
    noise = torch.randint(0, 256, (1, 1, 3, 64, 112), dtype=torch.uint8)
    more = replace(scene, images=torch.cat([scene.images, noise], 1), rig=scene.rig.padded(7))
    plain, padded = model(scene), model(more)
    assert (plain.logits - padded.logits).abs().max() < 1e-5
    assert (plain.codes - padded.codes).abs().max() < 1e-4


@BOTH
@pytest.mark.parametrize("num_cameras", [1, 3, 6, 8])
def test_any_number_of_cameras_runs_with_the_same_weights(
    num_cameras: int, config: DETR3DConfig
) -> None:
    predictions = make_model(config)(random_scene(num_cameras))
    assert torch.isfinite(predictions.logits).all() and torch.isfinite(predictions.codes).all()


def test_predictions_depend_on_the_calibration() -> None:
    model, scene = make_model(), random_scene()
    turned = replace(scene, rig=scene.rig.select([1, 2, 3, 4, 5, 0]))
    assert (model(scene).logits - model(turned).logits).abs().max() > 1e-3


def test_scenes_of_a_batch_do_not_mix() -> None:
    model, scene = make_model(), random_scene(scenes=2)
    both = model(scene)
    first = replace(
        scene,
        images=scene.images[:1],
        rig=ring_rig(),
        tokens=scene.tokens[:1],
        targets=scene.targets[:1],
    )
    torch.testing.assert_close(both.logits[:, :1], model(first).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [SMALL, FROM_SCRATCH, replace(SMALL, rig="indexed")],
    ids=["free", "from scratch", "indexed"],
)
def test_training_reduces_the_loss_and_reaches_every_parameter(config: DETR3DConfig) -> None:
    model, scene = config.build(CLASSES), random_scene()
    criterion = config.build_criterion(CLASSES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        total = sum(criterion(model(scene), scene.targets).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert losses[-1] < 0.7 * losses[0]
    still = [name for name, p in model.named_parameters() if p.grad is None]
    assert not still


def test_bfloat16_loss_is_close_to_float32() -> None:
    model, scene = make_model(), random_scene()
    criterion = SMALL.build_criterion(CLASSES)
    full = sum(criterion(model(scene), scene.targets).values())
    with torch.autocast("cpu", torch.bfloat16):
        predictions = model(scene)
    half = sum(criterion(predictions, scene.targets).values())
    assert half.item() == pytest.approx(full.item(), rel=0.02)


def test_paper_size_builds_without_memory() -> None:
    with torch.device("meta"):
        model = DETR3DConfig().build(CLASSES)
    assert len(model.decoder) == 6
    assert model.queries.embedding.weight.shape == (900, 512)


def test_anchors_cover_the_region_and_are_denser_nearby() -> None:
    region = Region()
    anchors = ring_anchors(400, region)
    assert bool((anchors > 0).all() and (anchors < 1).all())
    radius = region.to_metres(anchors)[:, :2].norm(dim=-1)
    inner, outer = (radius < 20).sum() / 20**2, (radius > 30).sum() / (51.2**2 - 30**2)
    assert inner > 1.3 * outer
