r"""Panoptic DETR in two stages, first the boxes: DETR with ResNet-50 on things and stuff.

Carion et al., ECCV 2020, section 4.4. The second stage is detr_r50_panoptic_masks.py; what it makes
is evaluated there (this stage has no segments to judge).

Train: torchrun --nproc-per-node 16 tools/train.py configs/detr2d/detr_r50_panoptic_boxes.py
"""

from pathlib import Path

from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.data.coco_classes import DETR_PANOPTIC_CLASSES
from detr2d.data.panoptic import CocoPanopticConfig
from detr2d.systems.detr import DETRConfig

experiment = Experiment(
    system=DETRConfig(
        backbone=ResNetConfig(depth=50, out_stages=(4,), frozen_stages=1),
    ),
    data=CocoPanopticConfig(root=Path("data/coco"), classes=DETR_PANOPTIC_CLASSES),
    train=TrainConfig(
        epochs=500,
        batch_size=4,
        lr=1e-4,
        weight_decay=1e-4,
        schedule="step",
        step_epochs=(400,),
        warmup_steps=0,
        clip_norm=0.1,
    ),
    work_dir=Path("outputs/detr_r50_panoptic_boxes"),
)
