"""An earlier look of the same cameras, brought into the present frame of reference."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from det3d.cameras import CameraRig
from det3d.data.nuscenes_index import NuScenesIndex
from det3d.geometry import invert_transform
from detr2d.structures import pad_stack

NO_PAST = 1.245  # seconds; PETRv2's released code calls a first frame's own images this old


@dataclass(frozen=True, kw_only=True)
class PreviousKeyFrame:
    """Which key frame before the present one is looked at beside it, counted in key frames."""

    training: tuple[int, int] = (1, 4)
    """Fewest and most steps back, drawn at random in training."""
    evaluation: int = 2
    """Steps back in evaluation; key frames are half a second apart in nuScenes."""

    def __post_init__(self) -> None:
        if not 1 <= self.training[0] <= self.training[1] or self.evaluation < 1:
            raise ValueError(
                f"previous key frames lie at least one step back, the fewest first; got "
                f"training {self.training}, evaluation {self.evaluation}"
            )

    def steps(self, generator: torch.Generator | None) -> int:
        """Steps back: drawn with a generator, fixed without."""
        if generator is None:
            return self.evaluation
        fewest, most = self.training
        return int(torch.randint(fewest, most + 1, (), generator=generator))


def previous_row(index: NuScenesIndex, row: int, steps: int) -> int:
    """The row ``steps`` key frames before, the scene's first if there are fewer."""
    scenes = index.sample_scenes
    while steps and row and scenes[row - 1] == scenes[row]:
        row, steps = row - 1, steps - 1
    return row


Look = tuple[int, Tensor, CameraRig]
"""A row of the index, its images (V, 3, H, W) and its rig (1, V, ...) in its own ref frame."""


def join_cameras(index: NuScenesIndex, now: Look, before: Look) -> tuple[Tensor, CameraRig]:
    """Images (2 V, 3, H, W) and rig (1, 2 V, ...) of both looks in the present ref frame.

    Where there is no earlier look, the present one is repeated and called ``NO_PAST`` old.
    """
    row, images, rig = now
    earlier_row, earlier_images, earlier = before
    earlier = earlier.moved(ref_from_ref(index, earlier_row, row).float())
    if earlier_row == row:
        earlier = replace(earlier, timestamps=earlier.timestamps - NO_PAST)
    joined = CameraRig(
        intrinsics=torch.cat([rig.intrinsics, earlier.intrinsics], 1),
        camera_from_ref=torch.cat([rig.camera_from_ref, earlier.camera_from_ref], 1),
        image_sizes=torch.cat([rig.image_sizes, earlier.image_sizes], 1),
        present=torch.cat([rig.present, earlier.present], 1),
        timestamps=torch.cat([rig.timestamps, earlier.timestamps], 1),
    )
    return pad_stack([*images, *earlier_images]), joined


def ref_from_ref(index: NuScenesIndex, target_row: int, source_row: int) -> Tensor:
    """Transform (4, 4), float64, between the ref frames of two samples, through the world."""
    target, source = (
        torch.from_numpy(index.global_from_ego[row] @ index.ego_from_ref[row])
        for row in (target_row, source_row)
    )
    return invert_transform(target) @ source
