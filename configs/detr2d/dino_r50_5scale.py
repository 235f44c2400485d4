r"""DINO: ResNet-50, five scales. Zhang et al., ICLR 2023.

Published on COCO val2017: box AP 49.4 (12 epochs on 16 images a step; authors' README).
Official weights: checkpoint0011_5scale.pth

Convert: python tools/convert_checkpoint.py \
    configs/detr2d/dino_r50_5scale.py OFFICIAL.pth outputs/weights.safetensors
Run:     python tools/evaluate.py \
    configs/detr2d/dino_r50_5scale.py outputs/weights.safetensors
Train:   torchrun --nproc-per-node 16 tools/train.py \
    configs/detr2d/dino_r50_5scale.py
"""

from pathlib import Path

from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.data.coco import CocoConfig
from detr2d.data.coco_classes import DETR_CLASSES
from detr2d.systems.dino import DINOConfig

experiment = Experiment(
    system=DINOConfig(backbone=ResNetConfig(depth=50, out_stages=(1, 2, 3, 4), frozen_stages=1)),
    data=CocoConfig(root=Path("data/coco"), classes=DETR_CLASSES),
    train=TrainConfig(
        epochs=12,
        batch_size=1,
        lr=1e-4,
        weight_decay=1e-4,
        schedule="step",
        step_epochs=(11,),
        warmup_steps=0,
        clip_norm=0.1,
    ),
    work_dir=Path("outputs/dino_r50_5scale"),
)
