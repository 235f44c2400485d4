"""The training and evaluation recipe of DETR for images with boxes and masks.

Everything moves through torchvision's functional transforms of tv_tensors, so that image, boxes and
masks cannot disagree; random choices come from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as move

from detr2d.structures import ImageBatch, Targets


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Sizes in pixels that images are resized and cropped to. The defaults are DETR's."""

    shortest: int = 800
    """Shorter side in evaluation."""
    longest: int = 1333
    """No side gets longer than this."""
    training_shortest: tuple[int, ...] = tuple(range(480, 801, 32))
    """Shorter sides that training chooses from."""
    before_crop: tuple[int, ...] = (400, 500, 600)
    """Shorter sides that training chooses from before it crops."""
    crop: tuple[int, int] = (384, 600)
    """Smallest and largest side of a crop."""
    crop_probability: float = 0.5
    """How often training crops between two resizes instead of resizing once."""

    def __post_init__(self) -> None:
        sides = (self.shortest, self.longest, *self.training_shortest, *self.before_crop)
        if not self.training_shortest or not self.before_crop or min(*sides, *self.crop) < 1:
            raise ValueError(f"sizes must be given and at least 1, got {self}")
        if self.crop[0] > self.crop[1] or self.longest < self.shortest:
            raise ValueError(f"a largest size is smaller than its smallest one: {self}")
        if not 0 <= self.crop_probability <= 1:
            raise ValueError(f"crop_probability must lie in [0, 1], got {self.crop_probability}")


def scaled_resolution(shortest: int) -> Resolution:
    """DETR's recipe with all sizes scaled so that evaluation resizes to ``shortest``."""
    full, factor = Resolution(), shortest / Resolution().shortest
    return Resolution(
        shortest=shortest,
        longest=round(full.longest * factor),
        training_shortest=tuple(round(size * factor) for size in full.training_shortest),
        before_crop=tuple(round(size * factor) for size in full.before_crop),
        crop=(round(full.crop[0] * factor), round(full.crop[1] * factor)),
    )


@dataclass(frozen=True)
class LabelledImage:
    """One image and its objects, moved together.

    image (3, H, W) uint8; boxes (T, 4) corners x1, y1, x2, y2 in pixels; labels (T,) int64;
    masks (T, H, W) bool or None.
    """

    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    masks: tv_tensors.Mask | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[-2], self.image.shape[-1]

    def resized(self, height: int, width: int) -> LabelledImage:
        """The image resized bilinearly with antialiasing, masks to the nearest pixel."""
        size = [height, width]
        masks = self.masks if self.masks is None else move.resize(self.masks, size)
        image = move.resize(self.image, size, antialias=True)
        return replace(self, image=image, boxes=move.resize(self.boxes, size), masks=masks)

    def flipped(self) -> LabelledImage:
        """The mirror image, left for right."""
        masks = self.masks if self.masks is None else move.horizontal_flip(self.masks)
        image = move.horizontal_flip(self.image)
        return replace(self, image=image, boxes=move.horizontal_flip(self.boxes), masks=masks)

    def cropped(self, top: int, left: int, height: int, width: int) -> LabelledImage:
        """The part inside a window; boxes are cut, objects without any area left are dropped."""
        window = (top, left, height, width)
        masks = self.masks if self.masks is None else move.crop(self.masks, *window)
        moved = replace(
            self,
            image=move.crop(self.image, *window),
            boxes=move.crop(self.boxes, *window),
            masks=masks,
        )
        return moved.select(has_area(moved.boxes))

    def select(self, keep: Tensor) -> LabelledImage:
        """The same image with the objects of a boolean mask (T,)."""
        boxes = tv_tensors.wrap(self.boxes[keep], like=self.boxes)
        masks = None if self.masks is None else tv_tensors.Mask(self.masks[keep])
        return replace(self, boxes=boxes, labels=self.labels[keep], masks=masks)


def label_image(
    image: Tensor, boxes: Tensor, labels: Tensor, masks: Tensor | None = None
) -> LabelledImage:
    """An image (3, H, W) with boxes (T, 4) x1, y1, x2, y2, cut at its border.

    Objects whose box has no area inside the image are dropped, as in DETR.
    """
    corners = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[-2:])
    labelled = LabelledImage(
        image=tv_tensors.Image(image),
        boxes=move.clamp_bounding_boxes(corners),
        labels=labels,
        masks=None if masks is None else tv_tensors.Mask(masks),
    )
    return labelled.select(has_area(labelled.boxes))


def has_area(boxes: Tensor) -> Tensor:
    """Mask (T,) of the boxes x1, y1, x2, y2 that are wider and higher than nothing."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def fit_size(size: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """(height, width) with the shorter side ``shortest``, less where ``longest`` would be exceeded.

    Rounds as DETR does: the shorter side to the nearest pixel, then the longer one down.
    """
    short, long = min(size), max(size)
    if long * shortest > longest * short:
        shortest = max(round(longest * short / long), 1)
    height, width = (
        shortest if side == short else max(int(shortest * side / short), 1) for side in size
    )
    return height, width


def prepare_for_evaluation(sample: LabelledImage, resolution: Resolution) -> LabelledImage:
    """The image resized to the evaluation size."""
    return sample.resized(*fit_size(sample.size, resolution.shortest, resolution.longest))


def augment(
    sample: LabelledImage, resolution: Resolution, generator: torch.Generator
) -> LabelledImage:
    """DETR's training recipe: mirror at random, then resize, or resize, crop and resize."""
    if _chance(0.5, generator):
        sample = sample.flipped()
    if _chance(resolution.crop_probability, generator):
        before = resolution.before_crop[_integer(0, len(resolution.before_crop) - 1, generator)]
        # The limit on the longer side does not hold before the crop, as in the released code.
        sample = sample.resized(*fit_size(sample.size, before, 2**31))
        sample = sample.cropped(*crop_window(sample.size, resolution.crop, generator))
    sizes = resolution.training_shortest
    shortest = sizes[_integer(0, len(sizes) - 1, generator)]
    return sample.resized(*fit_size(sample.size, shortest, resolution.longest))


def crop_window(
    size: tuple[int, int], crop: tuple[int, int], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """A random window (top, left, height, width) in an image of ``size`` (height, width).

    Each side has a length between the two of ``crop``, and never more than the image's.
    """
    smallest, largest = crop
    height, width = (_integer(min(smallest, side), min(largest, side), generator) for side in size)
    top = _integer(0, size[0] - height, generator)
    left = _integer(0, size[1] - width, generator)
    return top, left, height, width


def to_batch(sample: LabelledImage, token: str, original_size: tuple[int, int]) -> ImageBatch:
    """A sample as a batch of one image, its boxes normalised centre x, centre y, width, height."""
    height, width = sample.size
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    centres = box_convert(sample.boxes.as_subclass(torch.Tensor), "xyxy", "cxcywh") / scale
    masks = None if sample.masks is None else sample.masks.as_subclass(torch.Tensor)
    return ImageBatch(
        images=sample.image.as_subclass(torch.Tensor).unsqueeze(0),
        image_sizes=torch.tensor([sample.size], dtype=torch.float32),
        tokens=(token,),
        original_sizes=torch.tensor([original_size], dtype=torch.float32),
        targets=(Targets(sample.labels, centres, masks),),
    )


def prepare_image(image: Tensor, token: str, resolution: Resolution) -> ImageBatch:
    """An image (3, H, W) uint8 without annotations as a batch of one, at the evaluation size."""
    height, width = image.shape[-2:]
    size = fit_size((height, width), resolution.shortest, resolution.longest)
    return ImageBatch(
        images=move.resize_image(image, list(size), antialias=True).unsqueeze(0),
        image_sizes=torch.tensor([size], dtype=torch.float32),
        tokens=(token,),
        original_sizes=torch.tensor([[height, width]], dtype=torch.float32),
    )


def _chance(probability: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < probability)


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """A random integer from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
