"""PETRv2, small and rig-free, on the toy world.

Its schedule is not tuned and no score was measured yet. It shares the worlds of `make demo`.
Run:   python tools/train.py configs/toy/petrv2.py
"""

from pathlib import Path

from det3d.data.history import PreviousKeyFrame
from det3d.data.nuscenes import NuScenesConfig
from det3d.data.transforms import PhotometricJitter, RegionFilter, WorldFlip
from det3d.systems.petrv2 import PETRv2Config
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.images import Standardization

experiment = Experiment(
    system=PETRv2Config(
        backbone=ResNetConfig(depth=10, widths=(32, 64, 128, 256), out_stages=(3, 4), norm="batch"),
        cells="view",
        channels=128,
        num_queries=150,
        num_layers=3,
        heads=4,
        hidden=256,
        dropout=0.0,
        images=Standardization(),
    ),
    data=NuScenesConfig(
        root=Path("outputs/demo/world"),
        version="v1.0-mini",
        training_root=Path("outputs/demo/training_world"),
        training_version="v1.0-trainval",
        training_split="train",
        evaluation_split="mini_val",
        image_size=(256, 448),
        previous=PreviousKeyFrame(training=(1, 3), evaluation=2),
        augmentations=(RegionFilter(), WorldFlip(), PhotometricJitter(0.4, 0.4, 0.4)),
    ),
    train=TrainConfig(
        epochs=3,
        batch_size=2,
        lr=7e-4,
        backbone_lr_factor=1.0,
        warmup_steps=50,
        clip_norm=10.0,
        precision="bfloat16",
        ema_decay=0.998,
        workers=1,
        checkpoint_every=100,
    ),
    work_dir=Path("outputs/toy_petrv2"),
)
