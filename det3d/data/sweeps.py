"""The camera images between key frames of a nuScenes-format database, as compact arrays.

Kept apart from the index of the key frames and built only where someone looks at sweeps: nuScenes
has five of them for every key frame.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from det3d.data.nuscenes_index import Array, keep_arrays
from det3d.data.views import Views
from det3d.geometry import invert_transform


@dataclass(frozen=True)
class SweepIndex:
    """M images of C channels in N scenes, scene by scene, channel by channel, in order of time.

    starts (N * C + 1,): those of scene n and channel c are rows starts[n * C + c] to the next;
    files (M,): UTF-8 below the root; sizes (M, 2) (height, width); times (M,) in microseconds;
    poses (M, 7): of the car in the world, translation and quaternion; calibrations (M,): rows of
    intrinsics (K, 3, 3) and ego_from_camera (K, 4, 4).
    """

    starts: Array
    files: Array
    sizes: Array
    times: Array
    poses: Array
    calibrations: Array
    intrinsics: Array
    ego_from_camera: Array
    num_channels: int
    directory: Path

    def __len__(self) -> int:
        return len(self.files)

    def __reduce__(self) -> tuple[Any, ...]:
        return load_sweeps, (self.directory,)

    def rows(self, scene: int, column: int) -> Array:
        """Rows of the images of a channel in a scene, in order of time."""
        place = scene * self.num_channels + column
        return np.arange(self.starts[place], self.starts[place + 1])

    def view(self, row: int, global_from_ref: Array) -> Views:
        """One image, V = 1, with its camera in a ref frame whose pose (4, 4) is given."""
        from det3d.data.nuscenes_tables import matrices

        calibration = self.calibrations[row]
        global_from_ego = matrices([tuple(self.poses[row])])
        global_from_camera = global_from_ego @ torch.tensor(self.ego_from_camera[calibration])
        camera_from_ref = invert_transform(global_from_camera).numpy() @ global_from_ref
        return Views(
            files=self.files[row : row + 1],
            sizes=self.sizes[row : row + 1],
            times=self.times[row : row + 1],
            intrinsics=self.intrinsics[calibration : calibration + 1],
            camera_from_ref=camera_from_ref,
        )


def open_sweeps(root: Path, version: str, index_dir: Path) -> SweepIndex:
    """Open the sweeps of ``root/version``; like ``open_index``. There may be none at all."""
    return load_sweeps(keep_arrays("sweeps", root, version, index_dir, build_sweeps))


def load_sweeps(directory: Path) -> SweepIndex:
    """Map written arrays into memory."""
    meta = json.loads((directory / "meta.json").read_text())
    names = [f.name for f in fields(SweepIndex) if f.type == "Array"]
    arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in names}
    return SweepIndex(**arrays, num_channels=len(meta["channels"]), directory=directory)


def build_sweeps(tables: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and metadata of ``SweepIndex`` from a folder of tables."""
    from det3d.data import nuscenes_tables as read

    channels, calibrations = read.read_calibrations(tables)
    scenes = read.read_scenes(tables)
    samples = read.read_samples(tables, [token for token, _ in scenes])
    scene_rows = {token: scene for token, scene, _ in samples}
    columns = {channel: column for column, channel in enumerate(channels)}
    data = [
        item
        for item in read.read_files(tables, calibrations, scene_rows, key_frames=False)
        if item.channel in columns
    ]
    places = [scene_rows[item.sample] * len(channels) + columns[item.channel] for item in data]
    order = sorted(range(len(data)), key=lambda i: (places[i], data[i].time))
    data = [data[i] for i in order]
    poses = read.read_poses(tables, {item.pose for item in data})
    used = {token: row for row, token in enumerate(sorted({item.calibration for item in data}))}
    counts = np.bincount(np.array(places, dtype=np.int64), minlength=len(scenes) * len(channels))
    pose_rows = [
        read.find(poses, item.pose, "ego_pose", f"sample_data {item.file}") for item in data
    ]
    arrays = {
        "starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "files": np.array([item.file.encode() for item in data], dtype="S"),
        "sizes": np.array([item.size for item in data], dtype=np.int32).reshape(-1, 2),
        "times": np.array([item.time for item in data], dtype=np.int64),
        "poses": np.array(pose_rows, dtype=np.float64).reshape(-1, 7),
        "calibrations": np.array([used[item.calibration] for item in data], dtype=np.int64),
        "intrinsics": np.array([calibrations[token][2] for token in used]).reshape(-1, 3, 3),
        "ego_from_camera": read.matrices([calibrations[token][1] for token in used]).numpy(),
    }
    return arrays, {"channels": channels}
