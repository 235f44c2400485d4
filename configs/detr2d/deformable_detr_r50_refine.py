r"""Deformable DETR: ResNet-50, four scales, iterative box refinement. Zhu et al., ICLR 2021.

Published on COCO val2017: box AP 46.2 (50 epochs on 32 images a step; authors' README).
Official weights:
r50_deformable_detr_plus_iterative_bbox_refinement-checkpoint.pth

Convert: python tools/convert_checkpoint.py \
    configs/detr2d/deformable_detr_r50_refine.py OFFICIAL.pth outputs/weights.safetensors
Run:     python tools/evaluate.py \
    configs/detr2d/deformable_detr_r50_refine.py outputs/weights.safetensors
Train:   torchrun --nproc-per-node 16 tools/train.py \
    configs/detr2d/deformable_detr_r50_refine.py
"""

from pathlib import Path

from detr2d.config import Experiment, TrainConfig
from detr2d.data.coco import CocoConfig
from detr2d.data.coco_classes import DETR_CLASSES
from detr2d.systems.deformable_detr import DeformableDETRConfig

experiment = Experiment(
    system=DeformableDETRConfig(refine_boxes=True),
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
    work_dir=Path("outputs/deformable_detr_r50_refine"),
)
