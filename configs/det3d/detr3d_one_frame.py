r"""DETR3D overfitted on a single key frame: the first thing to try on a new rig or database.

If one frame cannot be learned by heart, calibration, boxes or conventions are wrong. Trained and
evaluated on the same frame, so the score says nothing about anything else.

Run:   python tools/train.py configs/det3d/detr3d_one_frame.py --data.root ROOT
Then:  python tools/evaluate.py configs/det3d/detr3d_one_frame.py \
           outputs/one_frame/model.safetensors --data.root ROOT
"""

from pathlib import Path

from det3d.data.nuscenes import NuScenesConfig
from det3d.systems.detr3d import DETR3DConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.images import IMAGENET_RGB

experiment = Experiment(
    system=DETR3DConfig(
        backbone=ResNetConfig(depth=10, widths=(32, 64, 128, 256), norm="batch"),
        extra_levels=0,
        channels=128,
        num_queries=400,
        num_layers=3,
        heads=4,
        dropout=0.0,
        rig="free",
        images=IMAGENET_RGB,
    ),
    data=NuScenesConfig(
        root=Path("data/nuscenes"),
        version="v1.0-mini",
        training_split=("scene-0061",),
        evaluation_split=("scene-0061",),
        image_size=(324, 576),
    ),
    train=TrainConfig(
        epochs=300,
        batch_size=1,
        lr=1e-3,
        backbone_lr_factor=1.0,
        warmup_steps=20,
        clip_norm=10.0,
        precision="bfloat16",
        workers=1,
        checkpoint_every=300,
    ),
    work_dir=Path("outputs/one_frame"),
)
