"""The experiments of configs/toy, shrunk until a step takes milliseconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from det3d.denoising import DenoisingConfig as NoisyCentres
from det3d.monocular import MonocularConfig
from det3d.ray_positions import Depths
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, SystemConfig, load_experiment
from detr2d.data.transforms import Resolution
from detr2d.deformable import DeformableConfig
from detr2d.systems.deformable_detr import DeformableDETRConfig
from detr2d.systems.detr import DETRConfig
from detr2d.systems.dino import DenoisingConfig, DINOConfig
from detr2d.transformer import TransformerConfig
from tests.helpers.tiny_coco import write_tiny_coco
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

TOY = Path(__file__).resolve().parents[2] / "configs" / "toy"
SMALL = {"channels": 16, "num_queries": 12, "num_layers": 2, "heads": 2, "hidden": 32}
DEFORMABLE = DeformableConfig(
    channels=64, heads=2, points=2, hidden=32, dropout=0.0, encoder_layers=1, decoder_layers=2
)
TRANSFORMER = TransformerConfig(
    channels=16, heads=2, hidden=32, encoder_layers=1, decoder_layers=2, num_queries=12, dropout=0.0
)
COCO = {
    "training_images": "images",
    "evaluation_images": "images",
    "training_annotations": "instances.json",
    "evaluation_annotations": "instances.json",
    "classes": (),
    "resolution": Resolution(
        shortest=48, longest=64, training_shortest=(40, 48), before_crop=(48,), crop=(32, 48)
    ),
}
PANOPTIC = {
    "training_annotations": "panoptic.json",
    "evaluation_annotations": "panoptic.json",
    "training_maps": "maps",
    "evaluation_maps": "maps",
}


def backbone(*stages: int) -> ResNetConfig:
    return ResNetConfig(depth=10, widths=(8, 8, 16, 16), out_stages=stages, norm="batch")


def toy(name: str) -> Experiment:
    return load_experiment(TOY / f"{name}.py")


def small_systems() -> dict[str, SystemConfig]:
    """Every system, as its toy config has it but narrow; plain DETR has no toy config."""
    change: Any = replace
    return {
        "detr": DETRConfig(backbone=backbone(4), transformer=TRANSFORMER),
        "panoptic": change(
            toy("detr_panoptic").system,
            backbone=backbone(1, 2, 3, 4),
            transformer=TRANSFORMER,
            num_things=3,
        ),
        "deformable": change(
            toy("deformable_detr").system,
            backbone=backbone(2, 3, 4),
            transformer=DEFORMABLE,
            num_queries=12,
        ),
        "dino": change(
            toy("dino").system,
            backbone=backbone(2, 3, 4),
            transformer=DEFORMABLE,
            num_queries=12,
            denoising=DenoisingConfig(count=50),
        ),
        **matched_systems(),
        "detr3d": change(
            toy("detr3d").system,
            backbone=backbone(2, 3, 4),
            monocular=MonocularConfig(num_queries=8),
            **SMALL,
        ),
        "petr": change(
            toy("petr").system, backbone=backbone(3, 4), depths=Depths(count=8), **SMALL
        ),
        "petrv2": change(
            toy("petrv2").system,
            backbone=backbone(3, 4),
            depths=Depths(count=8),
            denoising=NoisyCentres(groups=5),
            **SMALL,
        ),
    }


def matched_systems() -> dict[str, SystemConfig]:
    """The released first stage, which the toys' dense one stands for."""
    settings: dict[str, Any] = {
        "backbone": backbone(2, 3, 4), "extra_levels": 0, "transformer": DEFORMABLE,
        "num_queries": 12, "images": "standardized",
    }  # fmt: skip
    return {
        "deformable matched": DeformableDETRConfig(two_stage=True, refine_boxes=True, **settings),
        "dino matched": DINOConfig(denoising=DenoisingConfig(count=50), **settings),
    }


def small_experiment(name: str, folder: Path, **train: Any) -> Experiment:
    """A toy experiment with a small system, on a tiny data set written into ``folder / "data"``."""
    experiment, change = toy(name), replace
    data: Any = experiment.data
    if name in ("detr3d", "petr", "petrv2"):
        root = write_tiny_nuscenes(folder / "data")
        data = change(
            data,
            root=root,
            training_root=root,
            training_version="v1.0-mini",
            training_split="mini_train",
            image_size=(32, 64),
            index_dir=folder / "index",
        )
    else:
        data = change(data, root=write_tiny_coco(folder / "data"), **COCO)
        data = change(data, **PANOPTIC) if name == "detr_panoptic" else data
    names = {"detr_panoptic": "panoptic", "deformable_detr": "deformable"}
    return change(
        experiment,
        system=small_systems()[names.get(name, name)],
        data=data,
        train=change(experiment.train, **train),
        work_dir=folder / "run",
    )
