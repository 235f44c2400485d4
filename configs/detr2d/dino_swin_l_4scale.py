r"""DINO: Swin-L, four scales. Zhang et al., ICLR 2023.

Published on COCO val2017: box AP 56.8 (12 epochs on 16 images a step; authors' README).
Official weights: checkpoint0011_4scale_swin.pth

Convert: python tools/convert_checkpoint.py \
    configs/detr2d/dino_swin_l_4scale.py OFFICIAL.pth outputs/weights.safetensors
Run:     python tools/evaluate.py \
    configs/detr2d/dino_swin_l_4scale.py outputs/weights.safetensors
Train:   torchrun --nproc-per-node 8 tools/train.py \
    configs/detr2d/dino_swin_l_4scale.py
"""

from pathlib import Path

from detr2d.backbones.swin import SwinConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.data.coco import CocoConfig
from detr2d.data.coco_classes import DETR_CLASSES
from detr2d.systems.dino import DINOConfig

experiment = Experiment(
    system=DINOConfig(backbone=SwinConfig()),
    data=CocoConfig(root=Path("data/coco"), classes=DETR_CLASSES),
    train=TrainConfig(
        epochs=12,
        batch_size=2,
        lr=1e-4,
        weight_decay=1e-4,
        schedule="step",
        step_epochs=(11,),
        warmup_steps=0,
        clip_norm=0.1,
    ),
    work_dir=Path("outputs/dino_swin_l_4scale"),
)
