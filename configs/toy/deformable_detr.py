r"""Deformable DETR, small, with box refinement, on the toy world's COCO annotations.

Run:   python tools/make_toy_nuscenes.py outputs/toy2d/training_world --version v1.0-trainval \
           --scenes-per-split 400 0 --frames-per-scene 4 --frame-period 5 --balanced --seed 5
       python tools/make_toy_nuscenes.py outputs/toy2d/world --scenes-per-split 0 2
       torchrun --nproc-per-node 2 tools/train.py configs/toy/deformable_detr.py --train.threads 1
       python tools/evaluate.py configs/toy/deformable_detr.py \
           outputs/toy2d/deformable/model.safetensors
"""

from pathlib import Path

from det3d.data.toy_traffic import DETECTION_CLASSES
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.data.coco import CocoConfig
from detr2d.data.transforms import Resolution
from detr2d.deformable import DeformableConfig
from detr2d.systems.deformable_detr import DeformableDETRConfig

experiment = Experiment(
    system=DeformableDETRConfig(
        backbone=ResNetConfig(
            depth=10, widths=(32, 96, 128, 192), out_stages=(1, 2, 3, 4), norm="batch"
        ),
        extra_levels=0,
        neck="fpn",
        proposals="dense",
        transformer=DeformableConfig(
            channels=64,
            heads=4,
            hidden=256,
            dropout=0.0,
            encoder_layers=0,
            decoder_layers=2,
        ),
        num_queries=64,
        refine_boxes=True,
        two_stage=True,
        images="standardized",
    ),
    data=CocoConfig(
        root=Path("outputs/toy2d"),
        training_images="training_world",
        training_annotations="training_world/coco/annotations/instances_train.json",
        evaluation_images="world",
        evaluation_annotations="world/coco/annotations/instances_mini_val.json",
        classes=DETECTION_CLASSES,
        skip_empty=True,
        repeat_threshold=0.5,
        resolution=Resolution(
            shortest=256, longest=448, training_shortest=(256,), crop_probability=0.0
        ),
    ),
    train=TrainConfig(
        epochs=2,
        batch_size=8,
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
    work_dir=Path("outputs/toy2d/deformable"),
)
