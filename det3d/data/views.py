"""Where the images of some cameras lie and how the cameras stand, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from det3d.cameras import CameraRig
from det3d.data.nuscenes_index import NuScenesIndex

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Views:
    """What V cameras saw at one moment, each at its own time.

    files (V,): UTF-8 paths below the root, empty where a camera is absent; sizes (V, 2): (height,
    width); times (V,): microseconds; intrinsics (V, 3, 3) and camera_from_ref (V, 4, 4): float64.
    """

    files: Array
    sizes: Array
    times: Array
    intrinsics: Array
    camera_from_ref: Array

    @property
    def present(self) -> Array:
        """Which cameras are there: (V,) bool."""
        return self.files != b""

    def moved(self, old_from_new: Array) -> Views:
        """The same cameras in another ref frame; ``old_from_new`` is (4, 4)."""
        return replace(self, camera_from_ref=self.camera_from_ref @ old_from_new)

    def rig(self, absent_size: tuple[int, int]) -> CameraRig:
        """The calibration (1, V, ...) for images of their native size.

        Absent cameras are called ``absent_size`` (height, width) large.
        """
        present = self.present
        absent = ~present[:, None, None]
        intrinsics = np.where(absent, np.eye(3), self.intrinsics)
        camera_from_ref = np.where(absent, np.eye(4), self.camera_from_ref)
        sizes = np.where(present[:, None], self.sizes, absent_size)
        return CameraRig(
            intrinsics=torch.from_numpy(intrinsics).float().unsqueeze(0),
            camera_from_ref=torch.from_numpy(camera_from_ref).float().unsqueeze(0),
            image_sizes=torch.from_numpy(sizes).float().unsqueeze(0),
            present=torch.from_numpy(present).unsqueeze(0),
            timestamps=torch.from_numpy(1e-6 * self.times).unsqueeze(0),
        )


def key_frame_views(index: NuScenesIndex, row: int, columns: Sequence[int]) -> Views:
    """The cameras in ``columns`` of the index at the key frame in ``row``, in its ref frame."""
    chosen = list(columns)
    return Views(
        files=index.image_files[row, chosen],
        sizes=index.image_sizes[row, chosen],
        times=index.image_times[row, chosen],
        intrinsics=index.intrinsics[row, chosen],
        camera_from_ref=index.camera_from_ref[row, chosen],
    )


def absent_view() -> Views:
    """One camera that is not there."""
    return Views(
        files=np.array([b""]),
        sizes=np.zeros((1, 2), dtype=np.int32),
        times=np.zeros(1, dtype=np.int64),
        intrinsics=np.zeros((1, 3, 3)),
        camera_from_ref=np.zeros((1, 4, 4)),
    )


def join_views(views: Sequence[Views]) -> Views:
    """Cameras behind each other, in one ref frame."""
    return Views(
        files=np.concatenate([view.files for view in views]),
        sizes=np.concatenate([view.sizes for view in views]),
        times=np.concatenate([view.times for view in views]),
        intrinsics=np.concatenate([view.intrinsics for view in views]),
        camera_from_ref=np.concatenate([view.camera_from_ref for view in views]),
    )
