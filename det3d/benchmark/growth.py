"""How DETR3D and PETR grow with cameras, queries and scenes of a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from det3d.benchmark.pieces import ring_rig
from det3d.cameras import concatenate_rigs
from det3d.data.nuscenes_index import DETECTION_CLASSES
from det3d.structures import SceneBatch
from det3d.systems.detr3d import DETR3DConfig
from det3d.systems.petr import PETRConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.benchmark.detection import without_gradients
from detr2d.benchmark.growth import LINEAR, QUADRATIC, Growth
from detr2d.benchmark.measure import Setup
from detr2d.config import SystemConfig
from detr2d.inference import prepare_inference

CANVAS = (96, 160)
CAMERAS, QUERIES, SCENES = (1, 2, 3, 6, 12), (100, 200, 400, 800, 1600), (1, 2, 4, 8)
Program = Callable[[int], Callable[[], Any]]


def detr3d(queries: int) -> SystemConfig:
    """Rig-free DETR3D with ResNet-50 and four levels."""
    backbone = ResNetConfig(depth=50, out_stages=(2, 3, 4))
    return DETR3DConfig(backbone=backbone, rig="free", num_queries=queries)


def petr(queries: int) -> SystemConfig:
    """PETR with ResNet-50 and tokens at stride 16."""
    return PETRConfig(backbone=ResNetConfig(depth=50, out_stages=(3, 4)), num_queries=queries)


def noise_scenes(cameras: int, scenes: int, device: torch.device) -> SceneBatch:
    """Small images of random bytes around some places."""
    images = torch.randint(0, 256, (scenes, cameras, 3, *CANVAS), dtype=torch.uint8)
    rig = concatenate_rigs([ring_rig(cameras, CANVAS)] * scenes)
    tokens = tuple(str(scene) for scene in range(scenes))
    return SceneBatch(images=images, rig=rig, tokens=tokens).to(device)


def predictor(system: SystemConfig, setup: Setup) -> Callable[[SceneBatch], Any]:
    """The system with random weights as ``tools/evaluate.py`` runs it."""
    torch.manual_seed(0)
    model = system.build(DETECTION_CLASSES).to(setup.device)
    return prepare_inference(model, "float32", setup.device)


def by_cameras(system: SystemConfig, setup: Setup) -> Program:
    """The same system around one place with n cameras."""
    predict = predictor(system, setup)
    return lambda cameras: without_gradients(
        partial(predict, noise_scenes(cameras, 1, setup.device))
    )


def by_scenes(system: SystemConfig, setup: Setup) -> Program:
    """The same system on batches of n scenes with two cameras."""
    predict = predictor(system, setup)
    return lambda scenes: without_gradients(partial(predict, noise_scenes(2, scenes, setup.device)))


def by_queries(system: Callable[[int], SystemConfig], setup: Setup) -> Program:
    """Systems of n queries around one place with two cameras."""
    scene = noise_scenes(2, 1, setup.device)
    return lambda queries: without_gradients(partial(predictor(system(queries), setup), scene))


GROWTHS = tuple(
    growth
    for name, system in (("detr3d", detr3d), ("petr", petr))
    for growth in (
        Growth(
            f"growth.{name}.cameras", "one place, cameras", CAMERAS, LINEAR, LINEAR,
            partial(by_cameras, system(300)),
        ),
        Growth(
            f"growth.{name}.queries", "two cameras, queries", QUERIES, QUADRATIC, LINEAR,
            partial(by_queries, system),
        ),
        Growth(
            f"growth.{name}.images", "two cameras, batch size", SCENES, LINEAR, LINEAR,
            partial(by_scenes, system(300)),
        ),
    )
)  # fmt: skip
