r"""Panoptic DETR: ResNet-50. Carion et al., ECCV 2020.

Published on COCO val2017: PQ 43.4, box AP 38.8, mask AP 31.1
(500 epochs on 16 × 4 images, then 25 for the mask head; authors' README).
Official weights: detr-r50-panoptic-00ce5173.pth

Convert: python tools/convert_checkpoint.py configs/detr2d/detr_r50_panoptic.py \
    detr-r50-panoptic-00ce5173.pth detr_r50_panoptic.safetensors
Run:     python tools/evaluate.py configs/detr2d/detr_r50_panoptic.py \
    detr_r50_panoptic.safetensors
Train:   torchrun --nproc-per-node 16 tools/train.py configs/detr2d/detr_r50_panoptic.py
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
        epochs=500,
        batch_size=4,
        lr=1e-4,
        weight_decay=1e-4,
        schedule="step",
        step_epochs=(400,),
        warmup_steps=0,
        clip_norm=0.1,
    ),
    work_dir=Path("outputs/detr_r50_panoptic"),
)
