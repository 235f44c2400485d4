"""DETR3D at the paper's size: ResNet-101, 900 queries, 6 layers. Wang et al., CoRL 2021.

Published on nuScenes val with deformable convolutions and FCOS3D initialisation: mAP 0.347,
NDS 0.422 (authors' README). This file trains plain convolutions from scratch; loading the official
weights is still to come.

Run: torchrun --nproc-per-node 8 tools/train.py configs/det3d/detr3d_r101.py
"""

from pathlib import Path

from det3d.data.nuscenes import NuScenesConfig
from det3d.systems.detr3d import DETR3DConfig
from detr2d.config import Experiment, TrainConfig

experiment = Experiment(
    system=DETR3DConfig(),
    data=NuScenesConfig(root=Path("data/nuscenes"), image_size=(900, 1600)),
    train=TrainConfig(
        epochs=24,
        batch_size=1,
        lr=2e-4,
        backbone_lr_factor=0.1,
        warmup_steps=500,
        clip_norm=35.0,
        precision="bfloat16",
    ),
    work_dir=Path("outputs/detr3d_r101"),
)
