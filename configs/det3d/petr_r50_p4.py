r"""PETR: ResNet-50 with deformable convolutions, stride 16, 1408 x 512. Liu et al., ECCV 2022.

Published on nuScenes val (authors' README): mAP 0.317, NDS 0.367; 24 epochs without CBGS.
Official weights: petr_r50dcn_gridmask_p4.pth (the row PETR-r50-p4-1408x512 of the README)

Convert: python tools/convert_checkpoint.py configs/det3d/petr_r50_p4.py \
    petr_r50dcn_gridmask_p4.pth petr_r50_p4.safetensors
Run:     python tools/evaluate.py configs/det3d/petr_r50_p4.py \
    petr_r50_p4.safetensors
Train:   torchrun --nproc-per-node 8 tools/train.py configs/det3d/petr_r50_p4.py
"""

from pathlib import Path

from det3d.data.appearance import GridMask
from det3d.data.framing import ResizeCropFlip
from det3d.data.nuscenes import NuScenesConfig
from det3d.data.transforms import RegionFilter, WorldRotation, WorldScale
from det3d.systems.petr import PETRConfig
from detr2d.config import Experiment, TrainConfig

experiment = Experiment(
    system=PETRConfig(),
    data=NuScenesConfig(
        root=Path("data/nuscenes"),
        image_size=(512, 1408),
        framing=ResizeCropFlip(zoom=(0.909, 1.136)),
        size_divisor=32,
        augmentations=(RegionFilter(), WorldRotation(), WorldScale(), GridMask()),
    ),
    train=TrainConfig(epochs=24, lr=2e-4, backbone_lr_factor=0.1, precision="bfloat16"),
    work_dir=Path("outputs/petr_r50_p4"),
)
