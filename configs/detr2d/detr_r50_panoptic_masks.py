r"""Panoptic DETR in two stages, then the masks: only the mask head of ResNet-50 is trained.

Carion et al., ECCV 2020, section 4.4: 25 epochs on a frozen detector. Published on COCO val2017
in one stage and in two alike: PQ 43.4 (detr_r50_panoptic.py holds the official weights).

Train: torchrun --nproc-per-node 16 tools/train.py configs/detr2d/detr_r50_panoptic_masks.py
Run:   python tools/evaluate.py configs/detr2d/detr_r50_panoptic_masks.py \
    outputs/detr_r50_panoptic_masks/model.safetensors
"""

from pathlib import Path

from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.data.coco_classes import DETR_PANOPTIC_CLASSES
from detr2d.data.panoptic import CocoPanopticConfig
from detr2d.systems.panoptic import PanopticDETRConfig

experiment = Experiment(
    system=PanopticDETRConfig(
        backbone=ResNetConfig(depth=50, out_stages=(1, 2, 3, 4), frozen_stages=1),
    ),
    data=CocoPanopticConfig(root=Path("data/coco"), classes=DETR_PANOPTIC_CLASSES),
    train=TrainConfig(
        epochs=25,
        batch_size=1,
        lr=1e-4,
        weight_decay=1e-4,
        schedule="step",
        step_epochs=(15,),
        warmup_steps=0,
        clip_norm=0.1,
        only=("mask_head", "attention_maps"),
        start_from=Path("outputs/detr_r50_panoptic_boxes/model.safetensors"),
    ),
    work_dir=Path("outputs/detr_r50_panoptic_masks"),
)
