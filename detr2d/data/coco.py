"""COCO detection and instance segmentation data, in any file of the COCO format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import box_convert

from detr2d.config import DataConfig
from detr2d.data.coco_files import CocoFile, LabelMap, map_labels, read_coco
from detr2d.data.image_files import read_image_of_size
from detr2d.data.paths import below
from detr2d.data.randomness import ItemRandomness
from detr2d.data.repeats import repeated_rows
from detr2d.data.transforms import (
    Resolution,
    augment,
    label_image,
    prepare_for_evaluation,
    to_batch,
)
from detr2d.evaluation.coco import CocoEvaluator
from detr2d.structures import ImageBatch, concatenate_images


@dataclass(frozen=True, kw_only=True)
class CocoConfig(DataConfig):
    """Images with COCO annotations: the official ones, the toy world's, or one's own.

    Categories are found by name: label k is the category called ``classes[k]``, whatever its id.
    Without ``classes`` the labels follow the category ids of the training file.
    """

    root: Path
    """Folder below which the other paths lie."""
    training_images: str = "train2017"
    """Folder that the training file's image names start from."""
    training_annotations: str = "annotations/instances_train2017.json"
    """Annotations to train on."""
    evaluation_images: str = "val2017"
    """Folder that the evaluation file's image names start from."""
    evaluation_annotations: str = "annotations/instances_val2017.json"
    """Annotations to evaluate on."""
    classes: Annotated[tuple[str, ...], tyro.conf.Fixed] = ()
    """Names of the categories in label order, if not those of the training file."""
    resolution: Resolution = field(default_factory=Resolution)
    """Sizes to resize and crop images to."""
    masks: bool = False
    """Also train with and evaluate instance masks."""
    skip_empty: bool = False
    """Leave images without objects out of training."""
    repeat_threshold: float = 0.0
    """Repeat training images with classes that a smaller share of images shows (LVIS: 0.001)."""
    evaluator_library: Literal["hotcoco", "pycocotools"] = "hotcoco"
    """What computes the official figures; both give the same, hotcoco sooner."""

    def class_names(self) -> tuple[str, ...]:
        """Names of the K labels: ``classes``, or those of the training file by category id.

        Where the training file is missing the evaluation file is asked.
        """
        if self.classes:
            return self.classes
        training = self.root / self.training_annotations
        path = training if training.is_file() else self.root / self.evaluation_annotations
        return tuple(name for _, name in sorted(read_coco(path).categories))

    def training_set(self, seed: int) -> CocoDataset:
        """Training images, changed by the recipe of DETR."""
        file = read_coco(self.root / self.training_annotations)
        return CocoDataset(
            file,
            images=self.root / self.training_images,
            label_map=self._label_map(file),
            resolution=self.resolution,
            with_masks=self.masks,
            rows=self._training_rows(file, seed),
            seed=seed,
        )

    def evaluation_set(self) -> CocoDataset:
        """All evaluation images, resized."""
        file = read_coco(self.root / self.evaluation_annotations)
        return CocoDataset(
            file,
            images=self.root / self.evaluation_images,
            label_map=self._label_map(file),
            resolution=self.resolution,
            with_masks=self.masks,
        )

    def collate(self, samples: list[ImageBatch]) -> ImageBatch:
        """Join samples to one batch on a common canvas."""
        return concatenate_images(samples)

    def evaluator(self, output_dir: Path) -> CocoEvaluator:
        """The official evaluation, writing its files to ``output_dir``."""
        file = read_coco(self.root / self.evaluation_annotations)
        return CocoEvaluator(
            file,
            label_map=self._label_map(file),
            output_dir=output_dir,
            kinds=("bbox", "segm") if self.masks else ("bbox",),
            library=self.evaluator_library,
        )

    def _training_rows(self, file: CocoFile, seed: int) -> np.ndarray:
        rows = rows_with_objects(file) if self.skip_empty else np.arange(len(file))
        return repeated_rows(file, rows, self.repeat_threshold, seed)

    def _label_map(self, file: CocoFile) -> LabelMap:
        used = set(file.category_ids.tolist())
        return map_labels(file.path, file.categories, used, self.class_names())


class CocoDataset(Dataset[ImageBatch]):
    """Images of a COCO file; each item is an ``ImageBatch`` of one, images uint8 RGB.

    Crowd annotations are not among the targets. With ``seed`` the training recipe is applied, which
    depends on the seed, the epoch given to ``set_epoch`` and the item only; without, images are
    resized for evaluation.
    """

    def __init__(
        self,
        file: CocoFile,
        *,
        images: Path,
        label_map: LabelMap,
        resolution: Resolution,
        with_masks: bool = False,
        rows: Sequence[int] | np.ndarray | None = None,
        seed: int | None = None,
    ) -> None:
        self.file = file
        self.images = images
        self.label_map = label_map
        self.resolution = resolution
        self.with_masks = with_masks
        self.row_numbers = np.asarray(range(len(file)) if rows is None else rows, dtype=np.int64)
        self.randomness = None if seed is None else ItemRandomness(seed)

    def __len__(self) -> int:
        return len(self.row_numbers)

    def __getitem__(self, item: int) -> ImageBatch:
        file, row = self.file, int(self.row_numbers[item])
        height, width = file.sizes[row].tolist()
        positions = [p for p in file.annotations(row) if not file.crowd[p]]
        labels = [self.label_map.labels[c] for c in file.category_ids[positions].tolist()]
        boxes = torch.from_numpy(file.boxes[positions]).float()
        sample = label_image(
            self._read_image(row),
            box_convert(boxes, "xywh", "xyxy"),
            torch.tensor(labels, dtype=torch.int64),
            file.masks(row, positions) if self.with_masks else None,
        )
        if self.randomness is None:
            sample = prepare_for_evaluation(sample, self.resolution)
        else:
            sample = augment(sample, self.resolution, self.randomness.generator(item))
        return to_batch(sample, str(file.image_ids[row]), (height, width))

    def set_epoch(self, epoch: int) -> None:
        """Choose the random changes of all items; reaches running workers too."""
        if self.randomness is not None:
            self.randomness.set_epoch(epoch)

    def _read_image(self, row: int) -> Tensor:
        where = f"{self.file.path}: image {self.file.image_ids[row]}"
        path = below(self.images, self.file.file_names[row], where)
        return read_image_of_size(path, self.file.sizes[row].tolist(), where, "the annotations say")


def rows_with_objects(file: CocoFile) -> np.ndarray:
    """Rows of the images that have at least one annotation that is not a crowd."""
    counts = [not file.crowd[file.annotations(row)].all() for row in range(len(file))]
    return np.flatnonzero(counts)
