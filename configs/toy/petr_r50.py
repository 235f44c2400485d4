r"""PETR with ResNet-50 at 6 x 256 x 704 on a large toy world: for one GPU, from scratch.

Its schedule is not tuned and it was not run yet (docs/demo.md).
Run:   python tools/make_toy_nuscenes.py outputs/large/world --version v1.0-trainval \
           --scenes-per-split 150 20 --frames-per-scene 20 --image-size 396 704 --no-coco
       python tools/train.py configs/toy/petr_r50.py
       python tools/evaluate.py configs/toy/petr_r50.py outputs/large/petr_r50/model.safetensors
"""

from pathlib import Path

from det3d.data.framing import ResizeCropFlip
from det3d.data.nuscenes import NuScenesConfig
from det3d.data.transforms import PhotometricJitter, RegionFilter, WorldFlip
from det3d.systems.petr import PETRConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.images import Standardization

experiment = Experiment(
    system=PETRConfig(
        backbone=ResNetConfig(depth=50, norm="batch", out_stages=(3, 4)),
        cells="view",
        layer_heads="own",
        images=Standardization(),
    ),
    data=NuScenesConfig(
        root=Path("outputs/large/world"),
        ref="ego",
        image_size=(256, 704),  # without the upper rows, which are mostly sky
        framing=ResizeCropFlip(mirror=0.0),
        augmentations=(RegionFilter(), WorldFlip(), PhotometricJitter(0.4, 0.4, 0.4)),
    ),
    train=TrainConfig(
        epochs=24,
        batch_size=8,
        lr=4e-4,
        backbone_lr_factor=1.0,
        warmup_steps=200,
        clip_norm=10.0,
        precision="bfloat16",
        ema_decay=0.998,
        workers=8,
    ),
    work_dir=Path("outputs/large/petr_r50"),
)
