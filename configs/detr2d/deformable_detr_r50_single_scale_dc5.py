r"""Deformable DETR: ResNet-50 with dilated C5, single scale. Zhu et al., ICLR 2021.

Published on COCO val2017: box AP 41.5 (50 epochs on 32 images a step; authors' README).
Official weights:
r50_deformable_detr_single_scale_dc5-checkpoint.pth

Convert: python tools/convert_checkpoint.py \
    configs/detr2d/deformable_detr_r50_single_scale_dc5.py OFFICIAL.pth outputs/weights.safetensors
Run:     python tools/evaluate.py \
    configs/detr2d/deformable_detr_r50_single_scale_dc5.py outputs/weights.safetensors
Train:   torchrun --nproc-per-node 16 tools/train.py \
    configs/detr2d/deformable_detr_r50_single_scale_dc5.py
"""

from pathlib import Path

from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.data.coco import CocoConfig
from detr2d.data.coco_classes import DETR_CLASSES
from detr2d.systems.deformable_detr import DeformableDETRConfig

experiment = Experiment(
    system=DeformableDETRConfig(
        backbone=ResNetConfig(depth=50, out_stages=(4,), frozen_stages=1, dilate_last=True),
        extra_levels=0,
    ),
    data=CocoConfig(root=Path("data/coco"), classes=DETR_CLASSES),
    train=TrainConfig(
        epochs=50,
        batch_size=2,
        lr=2e-4,
        slow_parameters=("to_reference", "offsets"),
        weight_decay=1e-4,
        schedule="step",
        step_epochs=(40,),
        warmup_steps=0,
        clip_norm=0.1,
    ),
    work_dir=Path("outputs/deformable_detr_r50_single_scale_dc5"),
)
