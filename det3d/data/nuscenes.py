"""nuScenes-format databases as multi-camera samples in the key frame's LIDAR_TOP or ego frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils.data import Dataset

from det3d.data.framing import Chance, Framing, Stretch, frame_image, frame_rig, pad_canvas
from det3d.data.history import History, Look, PreviousKeyFrame, PreviousSweep, join_looks
from det3d.data.nuscenes_index import DETECTION_CLASSES, NuScenesIndex, RefFrame, open_index
from det3d.data.resampling import balanced_rows
from det3d.data.transforms import Augmentation
from det3d.data.views import Views, key_frame_views
from det3d.evaluation.nuscenes import NuScenesEvaluator
from det3d.evaluation.nuscenes_arrays import ArrayEvaluator
from det3d.geometry import transform_points
from det3d.results.points import read_points
from det3d.structures import SceneBatch, concatenate_scenes
from detr2d.config import DataConfig
from detr2d.data.image_files import read_image_of_size
from detr2d.data.paths import below
from detr2d.structures import Targets, stack_images

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
    training_root: Path | None = None
    """Folder of the database to train on, if that is another one than root."""
    training_version: str | None = None
    """Folder of the tables to train on, if those are other ones than version."""
    evaluation_split: str | tuple[str, ...] = "val"
    """Split to evaluate on, or the names of scenes or splits."""
    ref: RefFrame = "lidar"
    """Frame of rigs and boxes: LIDAR_TOP as in official weights, or ego, whose ground is level."""
    image_size: tuple[int, int] = (900, 1600)
    """Height and width of the network's images; how they get there is up to framing."""
    framing: Annotated[Framing, tyro.conf.Fixed] = field(default_factory=Stretch)
    """Stretch images to image_size, cut them to it, or leave them as they are."""
    size_divisor: int = 1
    """Pad images with black until their sides are divisible by this."""
    reduced_decoding: bool = False
    """Decode JPEGs at a half, quarter or eighth of their size where framing makes them no larger
    than that anyway: sooner, but pixels differ by half a grey level on average."""
    previous: PreviousKeyFrame | PreviousSweep | None = None
    """Also load the cameras at an earlier moment, behind those of the present one."""
    class_balanced: bool = False
    """Repeat training samples of rare classes until all classes are seen equally often (CBGS)."""
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
        return open_index(self.root, self.version, self.index_dir, self.ref)

    def training_set(self, seed: int) -> NuScenesDataset:
        """Samples of the training split, changed by the augmentations."""
        there = replace(
            self,
            root=self.training_root or self.root,
            version=self.training_version or self.version,
        )
        index = there.open_index()
        rows = index.rows(self.training_split)
        if self.class_balanced:
            rows = balanced_rows(index, rows, seed)
        return there.dataset(index, rows, training=True, seed=seed)

    def evaluation_set(self) -> NuScenesDataset:
        """Samples of the evaluation split as they are, in order of time."""
        index = self.open_index()
        return self.dataset(index, index.rows(self.evaluation_split))

    def collate(self, samples: list[SceneBatch]) -> SceneBatch:
        """Join samples to one batch, padding cameras to the most."""
        return concatenate_scenes(samples)

    def evaluator(self, output_dir: Path) -> NuScenesEvaluator | ArrayEvaluator:
        """The detection evaluation, writing its files to ``output_dir``."""
        kind = NuScenesEvaluator if self.judge == "devkit" else ArrayEvaluator
        return kind(self.open_index(), root=self.root, output_dir=output_dir)

    def dataset(
        self,
        index: NuScenesIndex,
        rows: Sequence[int] | np.ndarray,
        *,
        training: bool = False,
        seed: int = 0,
    ) -> NuScenesDataset:
        """Samples in ``rows`` of the index as the model wants them."""
        history = None
        if self.previous is not None:
            history = self.previous.open(index, self.root, self.index_dir)
        return NuScenesDataset(
            index,
            root=self.root,
            rows=rows,
            cameras=self.cameras,
            image_size=self.image_size,
            framing=self.framing,
            size_divisor=self.size_divisor,
            reduced_decoding=self.reduced_decoding,
            history=history,
            augmentations=self.augmentations if training else (),
            training=training,
            seed=seed,
        )


class NuScenesDataset(Dataset[SceneBatch]):
    """Key frames of an index; each item is a ``SceneBatch`` of one scene, V = len(cameras).

    images (1, V, 3, H, W) uint8 RGB; with a ``history``, V = 2 * len(cameras): the present cameras,
    then the same ones earlier, all in the present ref frame. Boxes are in the ref frame of the
    index; objects without any lidar or radar point are left out, as in the benchmark. A camera that
    the sample lacks is black and not present. What is random in ``training`` depends on ``seed``,
    the epoch given to ``set_epoch`` and the item only, never on the process that loads.
    """

    def __init__(
        self,
        index: NuScenesIndex,
        *,
        root: Path,
        rows: Sequence[int] | np.ndarray,
        cameras: Sequence[str] = CAMERAS,
        image_size: tuple[int, int] = (900, 1600),
        framing: Framing | None = None,
        size_divisor: int = 1,
        reduced_decoding: bool = False,
        history: History | None = None,
        augmentations: Sequence[Augmentation] = (),
        training: bool = False,
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
        self.framing = framing or Stretch()
        self.size_divisor = size_divisor
        self.reduced_decoding = reduced_decoding
        self.history = history
        self.training = training
        self.augmentations = tuple(augmentations)
        self.seed = seed
        # In shared memory, so that workers that live longer than an epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.row_numbers)

    def __getitem__(self, item: int) -> SceneBatch:
        row = int(self.row_numbers[item])
        generator = torch.Generator()
        if self.training or self.augmentations:
            generator.manual_seed(item_seed(self.seed, int(self._epoch), item))
        chance = self.framing.draw(generator) if self.training else None
        where = f"sample {self._token(row)}"
        look = self._look(key_frame_views(self.index, row, self.columns), chance, where)
        if self.history is not None:
            drawn = generator if self.training else None
            earlier = self.history.before(row, self.columns, drawn)
            look = join_looks(look, self._look(earlier, chance, f"before {where}"))
        images, rig = look
        scene = SceneBatch(
            images=images.unsqueeze(0),
            rig=rig,
            tokens=(self._token(row),),
            targets=(self._targets(row),),
        )
        for augmentation in self.augmentations:
            scene = augmentation(scene, generator)
        return replace(scene, images=pad_canvas(scene.images, self.size_divisor))

    def set_epoch(self, epoch: int) -> None:
        """Choose the augmentation of all items; reaches running workers too."""
        self._epoch.fill_(epoch)

    def lidar_points(self, item: int) -> Tensor:
        """Points (N, 5) of the key frame: x, y, z in metres in ref, intensity, ring."""
        row = int(self.row_numbers[item])
        where = f"sample {self._token(row)}"
        path = below(self.root, str(self.index.lidar_files[row], "utf-8"), where)
        points = torch.from_numpy(read_points(path, 5, where))
        ref_from_lidar = torch.tensor(self.index.ref_from_lidar[row]).float()
        return torch.cat([transform_points(ref_from_lidar, points[:, :3]), points[:, 3:]], dim=1)

    def _token(self, row: int) -> str:
        return str(self.index.sample_tokens[row], "utf-8")

    def _look(self, views: Views, chance: Chance | None, where: str) -> Look:
        """Framed images (V, 3, H, W) uint8, black where the camera is missing, and their rig."""
        native = views.rig(self.image_size)
        sizes = native.image_sizes[0].int().tolist()
        windows = [self.framing.window((h, w), self.image_size, chance) for h, w in sizes]
        images = []
        for camera, file, size, window in zip(
            self.cameras, views.files, sizes, windows, strict=True
        ):
            if not file:
                images.append(torch.zeros(3, *window.size, dtype=torch.uint8))
                continue
            place = f"{where}, camera {camera}"
            path = below(self.root, str(file, "utf-8"), place)
            enough = window.resized if self.reduced_decoding else None
            image = read_image_of_size(path, size, place, "sample_data says", enough)
            images.append(frame_image(image, window))
        # Augmentations are for unpadded images; without any, one copy does both.
        divisor = 1 if self.augmentations else self.size_divisor
        return stack_images(images, divisor), frame_rig(native, windows)

    def _targets(self, row: int) -> Targets:
        """The objects with at least one lidar or radar point."""
        start, stop = self.index.object_starts[row : row + 2]
        seen = self.index.object_points[start:stop] > 0
        return Targets(
            labels=torch.tensor(self.index.object_labels[start:stop][seen]),
            boxes=torch.tensor(self.index.object_boxes[start:stop][seen]),
        )


def item_seed(seed: int, epoch: int, item: int) -> int:
    """A well mixed 63-bit seed for the randomness of one item in one epoch."""
    mixed = np.random.SeedSequence([seed, epoch, item]).generate_state(1, np.uint64)
    return int(mixed[0] >> np.uint64(1))
