r"""DETR3D, small and rig-free, on the toy world: what `make demo` trains in minutes on two cores.

It trains on many short scenes and is judged on the long ones of `mini_val`, another database.
Run:   python tools/make_toy_nuscenes.py outputs/demo/training_world --version v1.0-trainval \
           --scenes-per-split 150 0 --frames-per-scene 10
       python tools/make_toy_nuscenes.py outputs/demo/world
       torchrun --nproc-per-node 2 tools/train.py configs/toy/detr3d.py --train.threads 1
"""

from pathlib import Path

from det3d.data.framing import ResizeCropFlip
from det3d.data.nuscenes import NuScenesConfig
from det3d.data.transforms import PhotometricJitter, RegionFilter, WorldFlip
from det3d.monocular import MonocularConfig
from det3d.systems.detr3d import DETR3DConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.images import Standardization

experiment = Experiment(
    system=DETR3DConfig(
        backbone=ResNetConfig(depth=10, widths=(32, 96, 128, 192), norm="batch"),
        extra_levels=0,
        channels=128,
        num_queries=20,
        num_layers=2,
        heads=4,
        hidden=256,
        num_points=2,
        dropout=0.0,
        rig="free",
        centre_step=0.25,
        images=Standardization(),
        monocular=MonocularConfig(weight=1.0, num_queries=100),
    ),
    data=NuScenesConfig(
        root=Path("outputs/demo/world"),
        version="v1.0-mini",
        ref="ego",
        training_root=Path("outputs/demo/training_world"),
        training_version="v1.0-trainval",
        training_split="train",
        evaluation_split="mini_val",
        image_size=(160, 448),  # without the upper rows, which are mostly sky
        framing=ResizeCropFlip(mirror=0.0),
        augmentations=(
            RegionFilter(),
            WorldFlip(),
            PhotometricJitter(0.4, 0.4, 0.4),
        ),
    ),
    train=TrainConfig(
        epochs=3,
        batch_size=2,
        optimizer="muon",
        lr=2e-2,
        backbone_lr_factor=1.0,
        warmup_steps=50,
        clip_norm=10.0,
        precision="bfloat16",
        ema_decay=0.998,
        workers=1,
        checkpoint_every=100,
    ),
    work_dir=Path("outputs/demo"),
)
