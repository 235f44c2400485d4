r"""PETRv2 with denoising queries: VoVNet-99, 800 x 320, two frames. Liu et al., ICCV 2023.

No score of these weights is published. Denoising changes the training only: weights have the names
of PETRv2's and are evaluated in the same way. The earlier frame is a sweep between key frames.
Official weights: petrv2_vovnet_gridmask_p4_800x320_dn.pth

Convert: python tools/convert_checkpoint.py configs/det3d/petrv2_vovnet_800x320_dn.py \
    petrv2_vovnet_gridmask_p4_800x320_dn.pth petrv2_vovnet_800x320_dn.safetensors
Run:     python tools/evaluate.py configs/det3d/petrv2_vovnet_800x320_dn.py \
    petrv2_vovnet_800x320_dn.safetensors
Train:   torchrun --nproc-per-node 8 tools/train.py configs/det3d/petrv2_vovnet_800x320_dn.py
"""

from pathlib import Path

from det3d.data.appearance import GridMask
from det3d.data.framing import ResizeCropFlip
from det3d.data.history import PreviousSweep
from det3d.data.nuscenes import NuScenesConfig
from det3d.data.transforms import RegionFilter, WorldRotation, WorldScale
from det3d.denoising import DenoisingConfig
from det3d.systems.petrv2 import PETRv2Config
from detr2d.config import Experiment, TrainConfig

experiment = Experiment(
    system=PETRv2Config(denoising=DenoisingConfig()),
    data=NuScenesConfig(
        root=Path("data/nuscenes"),
        image_size=(320, 800),
        framing=ResizeCropFlip(zoom=(0.94, 1.25)),
        size_divisor=32,
        previous=PreviousSweep(),
        augmentations=(RegionFilter(), WorldRotation(), WorldScale(), GridMask()),
    ),
    train=TrainConfig(epochs=24, lr=2e-4, backbone_lr_factor=0.1, precision="bfloat16"),
    work_dir=Path("outputs/petrv2_vovnet_800x320_dn"),
)
