"""An earlier look of the same cameras, brought into the present frame of reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from det3d.cameras import CameraRig
from det3d.data.nuscenes_index import Array, NuScenesIndex
from det3d.data.sweeps import SweepIndex, open_sweeps
from det3d.data.views import Views, absent_view, join_views, key_frame_views
from detr2d.structures import stack_images

MICROSECOND = 1e-6  # seconds
NO_PAST = 1.245  # seconds; PETRv2's released code calls a first frame's own images this old


class History(Protocol):
    """Finds what the cameras saw earlier."""

    def before(self, row: int, columns: Sequence[int], generator: torch.Generator | None) -> Views:
        """An earlier look of the cameras in ``columns``, in the ref frame of the key frame ``row``.

        Drawn with a generator, fixed without. Where there is no earlier one, the present one is
        repeated and called ``NO_PAST`` old.
        """


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

    def open(self, index: NuScenesIndex, root: Path, index_dir: Path) -> KeyFrameHistory:
        """What finds these key frames in a database."""
        return KeyFrameHistory(index, self)


@dataclass(frozen=True, kw_only=True)
class PreviousSweep:
    """How long before the present image each camera's earlier one was taken, in seconds.

    The image nearest to that time is taken, be it a sweep or a key frame, of the same scene and not
    from before its first key frame; the later one of two that are equally near. In a database
    without sweeps these are key frames; in a young scene, the oldest image. The defaults are those
    of PETRv2's released code, which counts 4 to 27 and 15 images of 1/12 s.
    """

    training: tuple[float, float] = (0.33, 2.25)
    """Shortest and longest time back, drawn at random in training."""
    evaluation: float = 1.25
    """Time back in evaluation."""

    def __post_init__(self) -> None:
        if not 0 < self.training[0] <= self.training[1] or not self.evaluation > 0:
            raise ValueError(
                f"sweeps lie back in time by more than 0 s, the shortest time first; got "
                f"training {self.training}, evaluation {self.evaluation}"
            )

    def seconds(self, generator: torch.Generator | None) -> float:
        """Time back: drawn with a generator, fixed without."""
        if generator is None:
            return self.evaluation
        shortest, longest = self.training
        share = float(torch.rand((), dtype=torch.float64, generator=generator))
        return shortest + (longest - shortest) * share

    def open(self, index: NuScenesIndex, root: Path, index_dir: Path) -> SweepHistory:
        """What finds these images in a database."""
        return SweepHistory(index, open_sweeps(root, index.version, index_dir), self)


@dataclass(frozen=True)
class KeyFrameHistory:
    """Finds earlier key frames; see ``History``."""

    index: NuScenesIndex
    settings: PreviousKeyFrame

    def before(self, row: int, columns: Sequence[int], generator: torch.Generator | None) -> Views:
        """The cameras at an earlier key frame."""
        earlier = previous_row(self.index, row, self.settings.steps(generator))
        if earlier == row:
            return repeated(key_frame_views(self.index, row, columns))
        return earlier_key_frame(self.index, earlier, row, columns)


@dataclass(frozen=True)
class SweepHistory:
    """Finds earlier images, key frames or not; see ``History``."""

    index: NuScenesIndex
    sweeps: SweepIndex
    settings: PreviousSweep

    def before(self, row: int, columns: Sequence[int], generator: torch.Generator | None) -> Views:
        """Each camera at the image nearest to the wanted time; absent if it has no earlier one."""
        seconds = self.settings.seconds(generator)
        found = join_views([self._nearest(row, column, seconds) for column in columns])
        if not found.present.any():
            return repeated(key_frame_views(self.index, row, columns))
        return found

    def _nearest(self, row: int, column: int, seconds: float) -> Views:
        """The image of one camera nearest to ``seconds`` before its present one."""
        index = self.index
        scene = int(index.sample_scenes[row])
        first = int(np.searchsorted(index.sample_scenes, scene))
        start, now = (image_time(index, key, column) for key in (first, row))
        keys = np.arange(first, row)
        keys = keys[index.image_files[keys, column] != b""]
        sweeps = self.sweeps.rows(scene, column)
        between = self.sweeps.times[sweeps]
        sweeps = sweeps[(between >= start) & (between < now)]
        times = np.concatenate([index.image_times[keys, column], self.sweeps.times[sweeps]])
        if not len(times):
            return absent_view()
        gaps = np.abs(times - (now - seconds / MICROSECOND))
        chosen = int(np.lexsort([-times, gaps])[0])
        if chosen < len(keys):
            return earlier_key_frame(index, int(keys[chosen]), row, [column])
        return self.sweeps.view(int(sweeps[chosen - len(keys)]), global_from_ref(index, row))


def image_time(index: NuScenesIndex, row: int, column: int) -> int:
    """When a camera took its key frame, or the sample's time if it has none; microseconds."""
    absent = index.image_files[row, column] == b""
    return int(index.sample_times[row] if absent else index.image_times[row, column])


def repeated(now: Views) -> Views:
    """The present look, called ``NO_PAST`` old."""
    return replace(now, times=now.times - round(NO_PAST / MICROSECOND))


def previous_row(index: NuScenesIndex, row: int, steps: int) -> int:
    """The row ``steps`` key frames before, the scene's first if there are fewer."""
    scenes = index.sample_scenes
    while steps and row and scenes[row - 1] == scenes[row]:
        row, steps = row - 1, steps - 1
    return row


def earlier_key_frame(
    index: NuScenesIndex, earlier: int, row: int, columns: Sequence[int]
) -> Views:
    """Cameras at the key frame ``earlier``, in the ref frame of the one in ``row``."""
    earlier_from_now = np.linalg.inv(global_from_ref(index, earlier)) @ global_from_ref(index, row)
    return key_frame_views(index, earlier, columns).moved(earlier_from_now)


def global_from_ref(index: NuScenesIndex, row: int) -> Array:
    """The pose (4, 4), float64, of a sample's ref frame in the world."""
    pose: Array = index.global_from_ego[row] @ index.ego_from_ref[row]
    return pose


Look = tuple[Tensor, CameraRig]
"""Images (V, 3, H, W) and their rig (1, V, ...) in the present ref frame."""


def join_looks(now: Look, before: Look) -> Look:
    """Images (2 V, 3, H, W) and rig (1, 2 V, ...) of both looks, the present one first."""
    (images, rig), (earlier_images, earlier) = now, before
    joined = CameraRig(
        intrinsics=torch.cat([rig.intrinsics, earlier.intrinsics], 1),
        camera_from_ref=torch.cat([rig.camera_from_ref, earlier.camera_from_ref], 1),
        image_sizes=torch.cat([rig.image_sizes, earlier.image_sizes], 1),
        present=torch.cat([rig.present, earlier.present], 1),
        timestamps=torch.cat([rig.timestamps, earlier.timestamps], 1),
    )
    return stack_images([*images, *earlier_images]), joined
