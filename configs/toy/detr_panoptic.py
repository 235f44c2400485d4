r"""Panoptic DETR, small, on the toy world's COCO panoptic annotations.

Run:   python tools/make_toy_nuscenes.py outputs/toy2d/training_world --version v1.0-trainval \
           --scenes-per-split 400 0 --frames-per-scene 4 --frame-period 5 --balanced --seed 5
       python tools/make_toy_nuscenes.py outputs/toy2d/world --scenes-per-split 0 2
       torchrun --nproc-per-node 2 tools/train.py configs/toy/detr_panoptic.py --train.threads 1
       python tools/evaluate.py configs/toy/detr_panoptic.py \
           outputs/toy2d/panoptic/model.safetensors
"""

from pathlib import Path

from det3d.data.toy_town import STUFF
from det3d.data.toy_traffic import DETECTION_CLASSES
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.data.panoptic import CocoPanopticConfig
from detr2d.data.transforms import Resolution
from detr2d.systems.panoptic import PanopticDETRConfig
from detr2d.transformer import TransformerConfig

experiment = Experiment(
    system=PanopticDETRConfig(
        backbone=ResNetConfig(
            depth=10, widths=(32, 64, 128, 192), out_stages=(1, 2, 3, 4), norm="batch"
        ),
        transformer=TransformerConfig(
            channels=128,
            heads=8,
            hidden=256,
            encoder_layers=1,
            decoder_layers=2,
            num_queries=50,
            dropout=0.0,
        ),
        num_things=len(DETECTION_CLASSES),
        segment_score=0.5,
    ),
    data=CocoPanopticConfig(
        root=Path("outputs/toy2d"),
        training_images="training_world",
        training_annotations="training_world/coco/annotations/panoptic_train.json",
        training_maps="training_world/coco/panoptic",
        evaluation_images="world",
        evaluation_annotations="world/coco/annotations/panoptic_mini_val.json",
        evaluation_maps="world/coco/panoptic",
        classes=(*DETECTION_CLASSES, *STUFF),
        resolution=Resolution(
            shortest=128, longest=224, training_shortest=(128,), crop_probability=0.0
        ),
    ),
    train=TrainConfig(
        epochs=2,
        batch_size=8,
        optimizer="muon",
        lr=4e-3,
        backbone_lr_factor=1.0,
        warmup_steps=50,
        clip_norm=1.0,
        precision="bfloat16",
        ema_decay=0.998,
        workers=1,
        checkpoint_every=100,
    ),
    work_dir=Path("outputs/toy2d/panoptic"),
)
