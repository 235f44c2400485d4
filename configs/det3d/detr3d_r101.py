r"""DETR3D: ResNet-101 with deformable convolutions. Wang et al., CoRL 2021.

Published on nuScenes val (authors' README; FCOS3D initialisation): mAP 0.347, NDS 0.422; with
--data.class-balanced: mAP 0.349, NDS 0.434. Official weights: detr3d_resnet101.pth

Convert: python tools/convert_checkpoint.py configs/det3d/detr3d_r101.py \
    detr3d_resnet101.pth detr3d_r101.safetensors
Run:     python tools/evaluate.py configs/det3d/detr3d_r101.py detr3d_r101.safetensors
Train:   torchrun --nproc-per-node 8 tools/train.py configs/det3d/detr3d_r101.py
"""

from pathlib import Path

from det3d.data.appearance import GridMask, PhotometricDistortion
from det3d.data.framing import NativeSize
from det3d.data.nuscenes import NuScenesConfig
from det3d.data.transforms import RegionFilter
from det3d.systems.detr3d import DETR3DConfig
from detr2d.config import Experiment, TrainConfig

experiment = Experiment(
    system=DETR3DConfig(),
    data=NuScenesConfig(
        root=Path("data/nuscenes"),
        framing=NativeSize(),
        size_divisor=32,
        augmentations=(RegionFilter(), PhotometricDistortion(), GridMask()),
    ),
    train=TrainConfig(epochs=24, lr=2e-4, backbone_lr_factor=0.1, precision="bfloat16"),
    work_dir=Path("outputs/detr3d_r101"),
)
