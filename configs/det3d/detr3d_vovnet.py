r"""DETR3D: VoVNet-99, trained on train and val. Wang et al., CoRL 2021.

Published on nuScenes test (authors' README; DD3D initialisation): mAP 0.412, NDS 0.479. Val is in
its training set, so a val score says nothing. Official weights: detr3d_vovnet_trainval.pth

Convert: python tools/convert_checkpoint.py configs/det3d/detr3d_vovnet.py \
    detr3d_vovnet_trainval.pth detr3d_vovnet.safetensors
Run:     python tools/evaluate.py configs/det3d/detr3d_vovnet.py detr3d_vovnet.safetensors
Train:   torchrun --nproc-per-node 8 tools/train.py configs/det3d/detr3d_vovnet.py
"""

from pathlib import Path

from det3d.data.appearance import GridMask, PhotometricDistortion
from det3d.data.framing import NativeSize
from det3d.data.nuscenes import NuScenesConfig
from det3d.data.transforms import RegionFilter
from det3d.systems.detr3d import DETR3DConfig
from detr2d.backbones.vovnet import VoVNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.images import VOVNET_BGR

experiment = Experiment(
    system=DETR3DConfig(
        backbone=VoVNetConfig(out_stages=(1, 2, 3, 4), frozen_stages=1),
        extra_levels=0,
        images=VOVNET_BGR,
    ),
    data=NuScenesConfig(
        root=Path("data/nuscenes"),
        framing=NativeSize(),
        training_split=("train", "val"),
        class_balanced=True,
        size_divisor=32,
        augmentations=(RegionFilter(), PhotometricDistortion(), GridMask()),
    ),
    train=TrainConfig(epochs=24, lr=2e-4, backbone_lr_factor=0.1, precision="bfloat16"),
    work_dir=Path("outputs/detr3d_vovnet"),
)
