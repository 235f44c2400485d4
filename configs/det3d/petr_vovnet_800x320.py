r"""PETR: VoVNet-99, stride 16, 800 x 320. Liu et al., ECCV 2022.

Published on nuScenes val (authors' README): mAP 0.378, NDS 0.426; 24 epochs without CBGS.
Official weights: petr_vovnet_gridmask_p4_800x320.pth (the row PETR-vov-p4-800x320 of the README)

Convert: python tools/convert_checkpoint.py configs/det3d/petr_vovnet_800x320.py \
    petr_vovnet_gridmask_p4_800x320.pth petr_vovnet_800x320.safetensors
Run:     python tools/evaluate.py configs/det3d/petr_vovnet_800x320.py \
    petr_vovnet_800x320.safetensors
Train:   torchrun --nproc-per-node 8 tools/train.py configs/det3d/petr_vovnet_800x320.py
"""

from pathlib import Path

from det3d.data.appearance import GridMask
from det3d.data.framing import ResizeCropFlip
from det3d.data.nuscenes import NuScenesConfig
from det3d.data.transforms import RegionFilter, WorldRotation, WorldScale
from det3d.systems.petr import PETRConfig
from detr2d.backbones.vovnet import VoVNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.images import VOVNET_BGR

experiment = Experiment(
    system=PETRConfig(backbone=VoVNetConfig(), images=VOVNET_BGR),
    data=NuScenesConfig(
        root=Path("data/nuscenes"),
        image_size=(320, 800),
        framing=ResizeCropFlip(zoom=(0.94, 1.25)),
        size_divisor=32,
        augmentations=(RegionFilter(), WorldRotation(), WorldScale(), GridMask()),
    ),
    train=TrainConfig(epochs=24, lr=2e-4, backbone_lr_factor=0.1, precision="bfloat16"),
    work_dir=Path("outputs/petr_vovnet_800x320"),
)
