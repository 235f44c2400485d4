"""nuScenes-format databases as multi-camera samples in the key frame's LIDAR_TOP frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as image_functional

from det3d.cameras import CameraRig
from det3d.data.nuscenes_index import DETECTION_CLASSES, NuScenesIndex, open_index
from det3d.data.transforms import Augmentation
from det3d.evaluation.nuscenes import NuScenesEvaluator
from det3d.evaluation.nuscenes_arrays import ArrayEvaluator
from det3d.structures import SceneBatch, concatenate_scenes
from detr2d.config import DataConfig
from detr2d.structures import Targets

CAMERAS = (
    "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT",
    "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NuScenesConfig(DataConfig):
    """A database in the nuScenes format: the real ones, the toy world, or one's own."""

    root: Path
    """Folder that holds the version's tables and the samples."""
    version: str = "v1.0-trainval"
    """Folder of the tables below root."""
    training_split: str | tuple[str, ...] = "train"
    """Split to train on, or the names of scenes or splits."""
    evaluation_split: str | tuple[str, ...] = "val"
    """Split to evaluate on, or the names of scenes or splits."""
    image_size: tuple[int, int] = (900, 1600)
    """Height and width that every image is resized to."""
    cameras: tuple[str, ...] = CAMERAS
    """Channels of the cameras, in the order in which the model sees them."""
    augmentations: Annotated[tuple[Augmentation, ...], tyro.conf.Fixed] = ()
    """Random changes of training samples, applied in this order."""
    index_dir: Path = Path("outputs/index")
    """Where the compact index of the tables is kept."""

    judge: Literal["devkit", "arrays"] = "devkit"
    """Who judges: the official devkit, or its metrics on arrays (the same figures, in seconds)."""

    def class_names(self) -> tuple[str, ...]:
        """The ten detection classes in label order."""
        return DETECTION_CLASSES

    def open_index(self) -> NuScenesIndex:
        """The index of the tables, built on the first call for these tables."""
        return open_index(self.root, self.version, self.index_dir)

    def training_set(self, seed: int) -> NuScenesDataset:
        """Samples of the training split, changed by the augmentations."""
        return self._dataset(self.training_split, self.augmentations, seed)

    def evaluation_set(self) -> NuScenesDataset:
        """Samples of the evaluation split as they are, in order of time."""
        return self._dataset(self.evaluation_split, (), 0)

    def collate(self, samples: list[SceneBatch]) -> SceneBatch:
        """Join samples to one batch, padding cameras to the most."""
        return concatenate_scenes(samples)

    def evaluator(self, output_dir: Path) -> NuScenesEvaluator | ArrayEvaluator:
        """The detection evaluation, writing its files to ``output_dir``."""
        kind = NuScenesEvaluator if self.judge == "devkit" else ArrayEvaluator
        return kind(self.open_index(), root=self.root, output_dir=output_dir)

    def _dataset(
        self, split: str | tuple[str, ...], augmentations: Sequence[Augmentation], seed: int
    ) -> NuScenesDataset:
        index = self.open_index()
        return NuScenesDataset(
            index,
            root=self.root,
            rows=index.rows(split),
            cameras=self.cameras,
            image_size=self.image_size,
            augmentations=augmentations,
            seed=seed,
        )


class NuScenesDataset(Dataset[SceneBatch]):
    """Key frames of an index; each item is a ``SceneBatch`` of one scene, V = len(cameras).

    images (1, V, 3, H, W) uint8 RGB; boxes in the LIDAR_TOP frame of the key frame; objects without
    any lidar or radar point are left out, as in the benchmark. A camera that the sample lacks is
    black and not present. Augmentation depends on ``seed``, the epoch given to ``set_epoch`` and
    the item only, never on the process that loads it.
    """

    def __init__(
        self,
        index: NuScenesIndex,
        *,
        root: Path,
        rows: Sequence[int] | np.ndarray,
        cameras: Sequence[str] = CAMERAS,
        image_size: tuple[int, int] = (900, 1600),
        augmentations: Sequence[Augmentation] = (),
        seed: int = 0,
    ) -> None:
        unknown = [camera for camera in cameras if camera not in index.channels]
        if unknown:
            raise ValueError(
                f"no camera {', '.join(unknown)} in {index.version} of {root}; "
                f"it has {', '.join(index.channels)}"
            )
        self.index = index
        self.root = root
        self.row_numbers = np.asarray(rows, dtype=np.int64)
        self.cameras = tuple(cameras)
        self.columns = [index.channels.index(camera) for camera in cameras]
        self.image_size = image_size
        self.augmentations = tuple(augmentations)
        self.seed = seed
        # In shared memory, so that workers that live longer than an epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.row_numbers)

    def __getitem__(self, item: int) -> SceneBatch:
        row = int(self.row_numbers[item])
        scene = SceneBatch(
            images=self._images(row).unsqueeze(0),
            rig=self._rig(row),
            tokens=(self._token(row),),
            targets=(self._targets(row),),
        )
        generator = torch.Generator()
        if self.augmentations:
            generator.manual_seed(item_seed(self.seed, int(self._epoch), item))
        for augmentation in self.augmentations:
            scene = augmentation(scene, generator)
        return scene

    def set_epoch(self, epoch: int) -> None:
        """Choose the augmentation of all items; reaches running workers too."""
        self._epoch.fill_(epoch)

    def lidar_points(self, item: int) -> Tensor:
        """Points (N, 5) of the key frame in ref: x, y, z in metres, intensity, ring."""
        row = int(self.row_numbers[item])
        path = self.root / str(self.index.lidar_files[row], "utf-8")
        if not path.is_file():
            raise FileNotFoundError(f"sample {self._token(row)}: lidar file {path} is missing")
        return torch.from_numpy(np.fromfile(path, dtype=np.float32).reshape(-1, 5))

    def _token(self, row: int) -> str:
        return str(self.index.sample_tokens[row], "utf-8")

    def _images(self, row: int) -> Tensor:
        """Images (V, 3, H, W) uint8, black where the camera is missing."""
        height, width = self.image_size
        images = torch.zeros(len(self.columns), 3, height, width, dtype=torch.uint8)
        for view, column in enumerate(self.columns):
            file = str(self.index.image_files[row, column], "utf-8")
            if file:
                where = f"sample {self._token(row)}, camera {self.cameras[view]}"
                native = tuple(self.index.image_sizes[row, column].tolist())
                image = read_image(self.root / file, native, where)
                images[view] = resize(image, self.image_size)
        return images

    def _rig(self, row: int) -> CameraRig:
        """The calibration (1, V, ...) for images of ``image_size``."""
        index, columns = self.index, self.columns
        present = index.image_files[row, columns] != b""
        absent = ~present[:, None, None]
        intrinsics = np.where(absent, np.eye(3), index.intrinsics[row, columns])
        camera_from_ref = np.where(absent, np.eye(4), index.camera_from_ref[row, columns])
        sizes = np.where(present[:, None], index.image_sizes[row, columns], self.image_size)
        native = CameraRig(
            intrinsics=torch.from_numpy(intrinsics).float().unsqueeze(0),
            camera_from_ref=torch.from_numpy(camera_from_ref).float().unsqueeze(0),
            image_sizes=torch.from_numpy(sizes).float().unsqueeze(0),
            present=torch.from_numpy(present).unsqueeze(0),
            timestamps=torch.from_numpy(1e-6 * index.image_times[row, columns]).unsqueeze(0),
        )
        return native.resized(torch.tensor(self.image_size))

    def _targets(self, row: int) -> Targets:
        """The objects with at least one lidar or radar point."""
        start, stop = self.index.object_starts[row : row + 2]
        seen = self.index.object_points[start:stop] > 0
        return Targets(
            labels=torch.tensor(self.index.object_labels[start:stop][seen]),
            boxes=torch.tensor(self.index.object_boxes[start:stop][seen]),
        )


def read_image(path: Path, size: tuple[int, ...], where: str) -> Tensor:
    """An image file as RGB uint8 (3, height, width).

    Raises FileNotFoundError or ValueError naming ``where`` if the file is missing, cannot be
    decoded or does not have the (height, width) of its table row.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: image file {path} is missing") from error
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(content, flags) if content.size else None
    if pixels is None:
        raise ValueError(f"{where}: {path} is no readable image")
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    if tuple(image.shape[1:]) != size:
        raise ValueError(
            f"{where}: {path} is {image.shape[1]} x {image.shape[2]} pixels (height x width), "
            f"sample_data says {size[0]} x {size[1]}"
        )
    return image


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image (3, H, W) bilinearly with antialiasing, uint8 in and out."""
    return image_functional.resize_image(image, list(size), antialias=True)


def item_seed(seed: int, epoch: int, item: int) -> int:
    """A well mixed 63-bit seed for the randomness of one item in one epoch."""
    mixed = np.random.SeedSequence([seed, epoch, item]).generate_state(1, np.uint64)
    return int(mixed[0] >> np.uint64(1))
