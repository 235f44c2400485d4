"""COCO panoptic data: every segment, thing or stuff, is an object with a mask."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch.utils.data import Dataset

from detr2d.config import DataConfig
from detr2d.data.coco_files import LabelMap, map_labels
from detr2d.data.image_files import read_image_of_size
from detr2d.data.panoptic_files import (
    PanopticFile,
    boxes_of_masks,
    read_panoptic,
    read_segment_map,
)
from detr2d.data.paths import below
from detr2d.data.randomness import ItemRandomness
from detr2d.data.transforms import (
    Resolution,
    augment,
    label_image,
    prepare_for_evaluation,
    to_batch,
)
from detr2d.evaluation.panoptic import PanopticEvaluator
from detr2d.structures import ImageBatch, concatenate_images


@dataclass(frozen=True, kw_only=True)
class CocoPanopticConfig(DataConfig):
    """Images with COCO panoptic annotations: the official ones, the toy world's, or one's own.

    Labels cover things and stuff. Categories are found by name, as in ``CocoConfig``.
    """

    root: Path
    """Folder below which the other paths lie."""
    training_images: str = "train2017"
    """Folder that the training file's image names start from."""
    training_annotations: str = "annotations/panoptic_train2017.json"
    """Annotations to train on."""
    training_maps: str = "annotations/panoptic_train2017"
    """Folder of the training file's segment maps."""
    evaluation_images: str = "val2017"
    """Folder that the evaluation file's image names start from."""
    evaluation_annotations: str = "annotations/panoptic_val2017.json"
    """Annotations to evaluate on."""
    evaluation_maps: str = "annotations/panoptic_val2017"
    """Folder of the evaluation file's segment maps."""
    classes: Annotated[tuple[str, ...], tyro.conf.Fixed] = ()
    """Names of the categories in label order, if not those of the training file."""
    resolution: Resolution = field(default_factory=Resolution)
    """Sizes to resize and crop images to."""

    def class_names(self) -> tuple[str, ...]:
        """Names of the K labels: ``classes``, or those of the training file.

        These are first all things, then all stuff, each by category id. Where the training file is
        missing the evaluation file is asked.
        """
        if self.classes:
            return self.classes
        training = self.root / self.training_annotations
        path = training if training.is_file() else self.root / self.evaluation_annotations
        file = read_panoptic(path)
        ordered = sorted(file.categories, key=lambda row: (row[0] not in file.things, row[0]))
        return tuple(name for _, name in ordered)

    def training_set(self, seed: int) -> PanopticDataset:
        """Training images, changed by the recipe of DETR."""
        return PanopticDataset(
            file := read_panoptic(self.root / self.training_annotations),
            images=self.root / self.training_images,
            maps=self.root / self.training_maps,
            label_map=self._label_map(file),
            resolution=self.resolution,
            seed=seed,
        )

    def evaluation_set(self) -> PanopticDataset:
        """All evaluation images, resized."""
        return PanopticDataset(
            file := read_panoptic(self.root / self.evaluation_annotations),
            images=self.root / self.evaluation_images,
            maps=self.root / self.evaluation_maps,
            label_map=self._label_map(file),
            resolution=self.resolution,
        )

    def collate(self, samples: list[ImageBatch]) -> ImageBatch:
        """Join samples to one batch on a common canvas."""
        return concatenate_images(samples)

    def evaluator(self, output_dir: Path) -> PanopticEvaluator:
        """Panoptic quality, writing its files to ``output_dir``."""
        file = read_panoptic(self.root / self.evaluation_annotations)
        return PanopticEvaluator(
            file,
            maps=self.root / self.evaluation_maps,
            label_map=self._label_map(file),
            output_dir=output_dir,
        )

    def _label_map(self, file: PanopticFile) -> LabelMap:
        used = set(file.category_ids.tolist())
        return map_labels(file.path, file.categories, used, self.class_names())


class PanopticDataset(Dataset[ImageBatch]):
    """Images of a COCO panoptic file; each item is an ``ImageBatch`` of one, images uint8 RGB.

    One target per segment that is no crowd: its label, mask and the box around its pixels (DETR's
    released code makes that box one pixel too small). With ``seed`` the training recipe is applied,
    which depends on the seed, the epoch given to ``set_epoch`` and the item only.
    """

    def __init__(
        self,
        file: PanopticFile,
        *,
        images: Path,
        maps: Path,
        label_map: LabelMap,
        resolution: Resolution,
        seed: int | None = None,
    ) -> None:
        self.file = file
        self.images = images
        self.maps = maps
        self.label_map = label_map
        self.resolution = resolution
        self.randomness = None if seed is None else ItemRandomness(seed)

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, item: int) -> ImageBatch:
        file, where = self.file, f"{self.file.path}: image {self.file.image_ids[item]}"
        size = file.sizes[item].tolist()
        segments = file.segments(item)
        kept = ~file.crowd[segments]
        ids = torch.tensor(file.ids[segments][kept])
        labels = [self.label_map.labels[c] for c in file.category_ids[segments][kept].tolist()]
        map_path = below(self.maps, file.map_names[item], where)
        segment_map = read_segment_map(map_path, where)
        if list(segment_map.shape) != size:
            raise ValueError(
                f"{where}: segment map {map_path} is "
                f"{tuple(segment_map.shape)} pixels (height, width), the annotations say {size}"
            )
        masks = segment_map == ids[:, None, None]  # (T, H, W)
        missing = ids[~masks.flatten(1).any(dim=1)].tolist()
        if missing:
            raise ValueError(f"{where}: segments {missing} have no pixel in {file.map_names[item]}")
        path = below(self.images, file.file_names[item], where)
        image = read_image_of_size(path, size, where, "the annotations say")
        label_tensor = torch.tensor(labels, dtype=torch.int64)
        sample = label_image(image, boxes_of_masks(masks), label_tensor, masks)
        if self.randomness is None:
            sample = prepare_for_evaluation(sample, self.resolution)
        else:
            sample = augment(sample, self.resolution, self.randomness.generator(item))
        return to_batch(sample, str(file.image_ids[item]), (size[0], size[1]))

    def set_epoch(self, epoch: int) -> None:
        """Choose the random changes of all items; reaches running workers too."""
        if self.randomness is not None:
            self.randomness.set_epoch(epoch)
