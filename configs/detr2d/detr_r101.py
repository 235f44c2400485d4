r"""DETR: ResNet-101. Carion et al., ECCV 2020.

Published on COCO val2017: box AP 43.5
(500 epochs on 16 × 4 images; authors' README).
Official weights: detr-r101-2c7b67e5.pth

Convert: python tools/convert_checkpoint.py configs/detr2d/detr_r101.py \
    detr-r101-2c7b67e5.pth detr_r101.safetensors
Run:     python tools/evaluate.py configs/detr2d/detr_r101.py \
    detr_r101.safetensors
Train:   torchrun --nproc-per-node 16 tools/train.py configs/detr2d/detr_r101.py
"""

from pathlib import Path

from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.data.coco import CocoConfig
from detr2d.data.coco_classes import DETR_CLASSES
from detr2d.systems.detr import DETRConfig

experiment = Experiment(
    system=DETRConfig(
        backbone=ResNetConfig(depth=101, out_stages=(4,), frozen_stages=1),
    ),
    data=CocoConfig(root=Path("data/coco"), classes=DETR_CLASSES),
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
    work_dir=Path("outputs/detr_r101"),
)
