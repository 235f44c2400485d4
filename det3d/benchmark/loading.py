"""Benchmark cases of nuScenes data: preparing the images of a sample, opening an index."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from det3d.benchmark.pieces import noise_arrays
from det3d.data.framing import Framing, NativeSize, ResizeCropFlip, Window
from det3d.data.nuscenes import NuScenesDataset
from det3d.data.nuscenes_index import (
    TABLES,
    NuScenesIndex,
    keep_arrays,
    load_index,
    open_index,
    write_index,
)
from det3d.doctor.pickled import read_plain_pickle
from det3d.structures import SceneBatch, concatenate_scenes
from detr2d.benchmark.loading import LEVEL, draw_photo
from detr2d.benchmark.measure import Case, Contender, Duel, Setup
from detr2d.images import VOVNET_BGR

NATIVE, CAMERAS = (900, 1600), 6
INFOS, SWEEPS = 28_130, 10
BLOCK = 8  # pixels: images decoded at half their size are compared as means of such squares


@dataclass(frozen=True)
class Size:
    """Image preparation of one published detector."""

    name: str
    image_size: tuple[int, int]
    framing: Framing
    tolerance: float


SIZES = (
    Size("320x800", (320, 800), ResizeCropFlip(), LEVEL),
    # At this ratio 16-bit weights of the filter put four values of a million two levels away.
    Size("512x1408", (512, 1408), ResizeCropFlip(), 2 * LEVEL),
    Size("full", NATIVE, NativeSize(), LEVEL),
)
DIVISOR = 32


def image_duels(size: Size, setup: Setup) -> Iterator[Duel]:
    """Six JPEGs to one batch: ours against the published steps.

    Ours ends with bytes, which models normalise on their device, and carries rig and objects too;
    the peer ends with normalised float32 images, to which ours is compared once normalised.
    """
    with TemporaryDirectory() as folder:
        dataset = photo_dataset(Path(folder), size)
        paths = sorted(Path(folder).glob("*.jpg"))
        window = size.framing.window(NATIVE, size.image_size, None)
        title = f"6 JPEGs of 1600x900 to {size.name}"

        def load(dataset: NuScenesDataset = dataset) -> SceneBatch:
            return concatenate_scenes([dataset[0]])

        def published() -> Tensor:
            return published_steps(paths, window)

        yield Duel(
            title,
            ours=(
                Contender("bytes", load, lambda scene: _images(_normalize(scene)), size.tolerance),
                Contender("float32", lambda: _normalize(load()), _images, size.tolerance),
            ),
            peers=(Contender("published steps", published, _images),),
        )
        if window.resized[0] * 2 > NATIVE[0]:
            return
        reduced = photo_dataset(Path(folder), size, reduced_decoding=True)
        yield Duel(
            f"{title}, decoded at half size",
            ours=(
                Contender(
                    "bytes",
                    lambda: load(reduced),
                    lambda scene: _blocks(_normalize(scene)),
                    2 * LEVEL,
                ),
            ),
            peers=(Contender("published steps", published, _blocks),),
        )


def photo_dataset(folder: Path, size: Size, *, reduced_decoding: bool = False) -> NuScenesDataset:
    """A data set of one sample whose six images are drawn."""
    names = [f"camera{number}" for number in range(CAMERAS)]
    for seed, name in enumerate(names):
        photo = folder / f"{name}.jpg"
        if not photo.is_file():
            photo.write_bytes(draw_photo(NATIVE, seed, noise=2, quality=75))
    arrays = noise_arrays(1) | {
        "image_files": np.array([[f"{name}.jpg".encode() for name in names]]),
        "image_sizes": np.tile(np.array(NATIVE, dtype=np.int32), (1, CAMERAS, 1)),
        "image_times": np.zeros((1, CAMERAS), dtype=np.int64),
    }
    meta = {"version": "v1.0-mini", "channels": names, "splits": {}}
    if not (folder / "index").is_dir():
        write_index(folder / "index", arrays, meta)
    return NuScenesDataset(
        load_index(folder / "index"),
        root=folder,
        rows=[0],
        cameras=names,
        image_size=size.image_size,
        framing=size.framing,
        size_divisor=DIVISOR,
        reduced_decoding=reduced_decoding,
    )


def published_steps(paths: Sequence[Path], window: Window) -> Tensor:
    """Images (V, 3, H, W) float32 as the released multi-camera detectors prepare them.

    All images in one float32 array, cameras along its last axis; back to bytes, Pillow's bicubic
    resize and crop, float32 again (where the size changes); normalised, padded, stacked and
    collated. Source: the pipelines of the released configs of DETR3D and PETR.
    """
    decoded = [cv2.imdecode(np.fromfile(p, np.uint8), cv2.IMREAD_UNCHANGED) for p in paths]
    together = np.stack(decoded, axis=-1).astype(np.float32)
    views = [together[..., number] for number in range(len(paths))]
    if window.resized != NATIVE:
        views = [_resize_by_pillow(view, window) for view in views]
    padded = [_normalize_and_pad(view) for view in views]
    stacked = np.ascontiguousarray(np.stack([view.transpose(2, 0, 1) for view in padded]))
    return torch.stack([torch.from_numpy(stacked)])[0]


def _resize_by_pillow(view: np.ndarray, window: Window) -> np.ndarray:
    (top, left), (height, width) = window.corner, window.size
    image = Image.fromarray(view.astype(np.uint8))
    image = image.resize(window.resized[::-1], Image.Resampling.BICUBIC)
    return np.array(image.crop((left, top, left + width, top + height))).astype(np.float32)


def _normalize_and_pad(view: np.ndarray) -> np.ndarray:
    pixels = view.copy()
    cv2.subtract(pixels, np.array([VOVNET_BGR.mean]), pixels)
    cv2.multiply(pixels, 1 / np.array([VOVNET_BGR.std]), pixels)
    down, right = (-side % DIVISOR for side in pixels.shape[:2])
    padded: np.ndarray = cv2.copyMakeBorder(
        pixels.astype(np.float32, copy=False), 0, down, 0, right, cv2.BORDER_CONSTANT, value=[0]
    )
    return padded


def _normalize(scene: SceneBatch) -> Tensor:
    return VOVNET_BGR.build()(scene.images, scene.rig.image_sizes)[0]


def _images(images: Tensor) -> Mapping[str, Tensor]:
    return {"images": images}


def _blocks(images: Tensor) -> Mapping[str, Tensor]:
    return {"blocks": F.avg_pool2d(images, BLOCK)}


def opening_duels(setup: Setup) -> Iterator[Duel]:
    """From nothing to the first sample's calibration and boxes, with as many samples as nuScenes.

    The peer is one pickle of plain values and small arrays per sample, with the cameras and the ten
    sweeps before it, as 3D detection toolboxes have it.
    """
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "v1.0").mkdir()
        for table in TABLES:
            (root / "v1.0" / f"{table}.json").write_text("[]")
        arrays = random_arrays(INFOS)
        meta = {"channels": [f"CAM_{number}" for number in range(CAMERAS)], "splits": {}}
        keep_arrays("lidar", root, "v1.0", root / "index", lambda tables: (arrays, meta))
        write_infos(root / "infos.pkl", arrays)

        yield Duel(
            f"{INFOS} samples",
            ours=(
                Contender(
                    "mapped arrays",
                    lambda: first_sample(open_index(root, "v1.0", root / "index")),
                    dict,
                ),
            ),
            peers=(Contender("pickled infos", lambda: first_info(root / "infos.pkl"), dict),),
        )


def random_arrays(samples: int) -> dict[str, np.ndarray]:
    """Arrays of an index with random calibration, boxes and times."""
    chance, arrays = np.random.default_rng(0), noise_arrays(samples)
    boxes = chance.normal(0, 10, arrays["object_boxes"].shape).astype(np.float32)
    return arrays | {
        "intrinsics": chance.normal(0, 1, (samples, CAMERAS, 3, 3)),
        "camera_from_ref": chance.normal(0, 1, (samples, CAMERAS, 4, 4)),
        "object_boxes": boxes,
    }


def write_infos(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Pickle one dictionary per sample."""
    starts, tokens = arrays["object_starts"], arrays["sample_tokens"]
    infos = []
    for row, token in enumerate(tokens):
        objects = slice(starts[row], starts[row + 1])
        count = starts[row + 1] - starts[row]
        infos.append(
            {
                **_pose(row),
                "token": token.decode(),
                "lidar_path": f"samples/LIDAR_TOP/{token.decode()}.pcd.bin",
                "sweeps": [_sensor(row, f"LIDAR_TOP_{n}") for n in range(SWEEPS)],
                "cams": {
                    f"CAM_{n}": {
                        **_sensor(row, f"CAM_{n}"),
                        "camera_from_ref": arrays["camera_from_ref"][row, n].copy(),
                        "cam_intrinsic": arrays["intrinsics"][row, n].copy(),
                    }
                    for n in range(CAMERAS)
                },
                "gt_boxes": arrays["object_boxes"][objects].copy(),
                "gt_names": np.array(["car"] * count),
                "gt_velocity": np.zeros((count, 2)),
                "num_lidar_pts": np.ones(count, dtype=np.int64),
                "num_radar_pts": np.zeros(count, dtype=np.int64),
                "valid_flag": np.ones(count, dtype=bool),
            }
        )
    with path.open("wb") as file:
        pickle.dump({"infos": infos, "metadata": {"version": "v1.0"}}, file)


def _sensor(row: int, name: str) -> dict[str, Any]:
    """What infos keep of one image or sweep."""
    return {
        **_pose(row),
        "data_path": f"samples/{name}/n015-2018-07-24-11-22-45+0800__{name}__{row:016d}.jpg",
        "type": name,
        "sample_data_token": f"{name}{row:028x}",
        "sensor2lidar_rotation": np.eye(3),
        "sensor2lidar_translation": np.zeros(3),
    }


def _pose(row: int) -> dict[str, Any]:
    return {
        "timestamp": 1_532_402_927_000_000 + row,
        "sensor2ego_translation": [row + 0.1, 0.2, 0.3],
        "sensor2ego_rotation": [row + 0.4, 0.5, 0.6, 0.7],
        "ego2global_translation": [row + 0.8, 0.9, 1.0],
        "ego2global_rotation": [row + 1.1, 1.2, 1.3, 1.4],
    }


def first_sample(index: NuScenesIndex) -> Mapping[str, Tensor]:
    """How many samples there are, and calibration and boxes of the first."""
    return {
        "samples": torch.tensor([len(index)]),
        "intrinsics": torch.tensor(index.intrinsics[0]),
        "camera_from_ref": torch.tensor(index.camera_from_ref[0]),
        "boxes": torch.tensor(index.object_boxes[: index.object_starts[1]]),
    }


def first_info(path: Path) -> Mapping[str, Tensor]:
    """The same of pickled infos."""
    infos = read_plain_pickle(path)["infos"]
    cameras = infos[0]["cams"].values()
    return {
        "samples": torch.tensor([len(infos)]),
        "intrinsics": torch.tensor(np.stack([camera["cam_intrinsic"] for camera in cameras])),
        "camera_from_ref": torch.tensor(np.stack([c["camera_from_ref"] for c in cameras])),
        "boxes": torch.tensor(infos[0]["gt_boxes"]),
    }


CASES = (
    *(
        Case(
            f"data.nusc.{size.name}",
            "preparing the six images of a sample",
            partial(image_duels, size),
        )
        for size in SIZES
    ),
    Case("index.open", "opening the annotations of nuScenes", opening_duels),
)
