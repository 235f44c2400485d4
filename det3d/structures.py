"""What a multi-camera detector is given: images, the rig that took them, and the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from det3d.cameras import CameraRig, concatenate_rigs
from detr2d.structures import Batch, Targets, check_shape, stack_images


@dataclass(frozen=True)
class SceneBatch(Batch):
    """B scenes, each seen by up to V cameras at one moment. A single sample is a batch of one.

    images (B, V, 3, H, W): uint8 RGB, or float; only the top-left ``rig.image_sizes`` area of each
    is valid, the rest is padding; rig: calibration in pixels of these images, ref frame = frame of
    the boxes; targets: one ``Targets`` a scene with boxes (T, 9) in the 3D box format of
    ``det3d.boxes``, or None without annotations; tokens: the sample token of each scene.
    """

    images: Tensor
    rig: CameraRig
    tokens: tuple[str, ...]
    targets: tuple[Targets, ...] | None = None

    def __post_init__(self) -> None:
        sizes = {"B": self.rig.num_scenes, "V": self.rig.num_cameras}
        check_shape("images", self.images, "B V 3 H W", sizes)
        if len(self.tokens) != sizes["B"]:
            raise ValueError(f"{sizes['B']} scenes need as many tokens, got {len(self.tokens)}")
        if self.targets is not None and len(self.targets) != sizes["B"]:
            raise ValueError(f"{sizes['B']} scenes need as many targets, got {len(self.targets)}")

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SceneBatch:
        """The same batch with every tensor on ``device``; see ``CameraRig.to``."""
        noted = replace(self, rig=replace(self.rig, noted=self.rig.note()))
        return super(SceneBatch, noted).to(device, non_blocking=non_blocking)

    def on_canvas(self, step: int) -> SceneBatch:
        """The batch itself: a data set has one canvas, which some systems take for image."""
        return self

    def __len__(self) -> int:
        return len(self.tokens)


def concatenate_scenes(scenes: Sequence[SceneBatch]) -> SceneBatch:
    """Join batches along the scene axis, padding images and cameras to the largest (collate)."""
    targets = [scene.targets for scene in scenes]
    with_targets = [t for t in targets if t is not None]
    if 0 < len(with_targets) < len(targets):
        raise ValueError("cannot join scenes with targets and scenes without")
    return SceneBatch(
        images=stack_images([image for scene in scenes for image in scene.images]),
        rig=concatenate_rigs([scene.rig for scene in scenes]),
        tokens=tuple(token for scene in scenes for token in scene.tokens),
        targets=tuple(t for group in with_targets for t in group) if with_targets else None,
    )
