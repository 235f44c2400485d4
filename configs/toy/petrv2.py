r"""PETRv2, small and rig-free, on the toy world: trained from scratch in minutes on two cores.

The velocities of its queries start from displacements over two key frames, one second.
It shares the worlds of `make demo` (see `configs/toy/detr3d.py`).
Run:   torchrun --nproc-per-node 2 tools/train.py configs/toy/petrv2.py --train.threads 1
       python tools/evaluate.py configs/toy/petrv2.py outputs/toy_petrv2/model.safetensors
"""

from pathlib import Path

from det3d.data.framing import ResizeCropFlip
from det3d.data.history import PreviousKeyFrame
from det3d.data.nuscenes import NuScenesConfig
from det3d.data.transforms import PhotometricJitter, RegionFilter, WorldFlip
from det3d.monocular import MonocularConfig
from det3d.ray_positions import Depths
from det3d.systems.petrv2 import PETRv2Config
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.images import Standardization

experiment = Experiment(
    system=PETRv2Config(
        backbone=ResNetConfig(depth=10, widths=(32, 96, 128, 192), norm="batch"),
        cells="view",
        channels=128,
        num_queries=20,
        num_layers=2,
        heads=4,
        hidden=256,
        dropout=0.0,
        depths=Depths(count=16),
        token_level=1,
        finest_period=1 / 16,
        centre_step=0.25,
        past_gradients=False,
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
        previous=PreviousKeyFrame(training=(2, 2), evaluation=2),
        augmentations=(RegionFilter(), WorldFlip(), PhotometricJitter(0.4, 0.4, 0.4)),
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
    work_dir=Path("outputs/toy_petrv2"),
)
