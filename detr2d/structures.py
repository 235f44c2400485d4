"""The values that flow between the steps: batches in, predictions out, detections at the end.

Letters, the same everywhere: B images or scenes, V cameras, Q queries, T objects, K classes,
L decoder layers, C channels, D code size, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from detr2d.images import valid_pixels

B = TypeVar("B", bound="Batch")


def check_shape(name: str, tensor: Tensor, letters: str, sizes: dict[str, int]) -> None:
    """Check ``tensor`` against a shape such as ``"B V 3 3"``; letters must agree across calls.

    ``sizes`` collects the letters seen so far. Raises ValueError with the expected and the actual
    shape if the rank, a literal number or an already known letter does not fit.
    """
    axes = letters.split()
    fits = tensor.dim() == len(axes) and all(
        size == (int(axis) if axis.isdigit() else sizes.setdefault(axis, size))
        for axis, size in zip(axes, tensor.shape, strict=True)
    )
    if not fits:
        known = ", ".join(f"{axis}={sizes[axis]}" for axis in axes if axis in sizes)
        raise ValueError(
            f"{name} must have shape ({letters})"
            + (f" with {known}" if known else "")
            + f", got {tuple(tensor.shape)}"
        )


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``function`` to every tensor inside nested dataclasses, tuples and lists."""
    if isinstance(value, Tensor):
        return function(value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)}
        return replace(value, **changed)
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(item, function) for item in value)
    return value


class Batch:
    """Mixin for frozen dataclasses of tensors: move all of them at once."""

    def to(self: B, device: torch.device | str, *, non_blocking: bool = False) -> B:
        """Return the same value with every tensor on ``device``."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: B) -> B:
        """Return the same value in page-locked memory (called by ``DataLoader``)."""
        return map_tensors(self, lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class Targets(Batch):
    """Annotated objects of one image or scene.

    labels (T,) int64 in [0, K); boxes (T, D) float32 in the box format of the codec that reads
    them; masks (T, H, W) bool over the image's valid area (beyond it everything is empty), or
    None where there are none to train with. An image without objects has T = 0.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("labels", self.labels, "T", sizes)
        check_shape("boxes", self.boxes, "T D", sizes)
        if self.masks is not None:
            check_shape("masks", self.masks, "T H W", sizes)

    def __len__(self) -> int:
        return self.labels.shape[0]


@dataclass(frozen=True)
class ImageBatch(Batch):
    """B images on one canvas, each in its top-left corner. A single sample is a batch of one.

    images (B, 3, H, W): uint8 RGB, or float; image_sizes (B, 2) float: (height, width) of each
    valid area, the rest of the canvas is padding; original_sizes (B, 2) float: the same before
    any resizing, the size that final boxes and masks refer to; tokens: the id of each image;
    targets: one ``Targets`` an image, or None without annotations. Their boxes are
    (centre x, centre y, width, height) in [0, 1] of the valid area.
    """

    images: Tensor
    image_sizes: Tensor
    tokens: tuple[str, ...]
    original_sizes: Tensor
    targets: tuple[Targets, ...] | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("images", self.images, "B 3 H W", sizes)
        check_shape("image_sizes", self.image_sizes, "B 2", sizes)
        check_shape("original_sizes", self.original_sizes, "B 2", sizes)
        if len(self.tokens) != sizes["B"]:
            raise ValueError(f"{sizes['B']} images need as many tokens, got {len(self.tokens)}")
        if self.targets is not None and len(self.targets) != sizes["B"]:
            raise ValueError(f"{sizes['B']} images need as many targets, got {len(self.targets)}")

    def __len__(self) -> int:
        return len(self.tokens)

    def on_canvas(self, step: int) -> ImageBatch:
        """The same images, padded until both sides of the canvas are multiples of ``step``."""
        height, width = self.images.shape[-2:]
        return replace(self, images=F.pad(self.images, (0, -width % step, 0, -height % step)))

    @property
    def padding(self) -> Tensor:
        """Mask (B, H, W) bool, True outside the valid area of each image."""
        return ~valid_pixels(self.image_sizes, *self.images.shape[-2:])


def concatenate_images(batches: Sequence[ImageBatch]) -> ImageBatch:
    """Join batches along the image axis, padding images to the largest canvas (collate)."""
    targets = [batch.targets for batch in batches]
    with_targets = [t for t in targets if t is not None]
    if 0 < len(with_targets) < len(targets):
        raise ValueError("cannot join images with targets and images without")
    return ImageBatch(
        images=stack_images([image for batch in batches for image in batch.images]),
        image_sizes=torch.cat([batch.image_sizes for batch in batches]),
        tokens=tuple(token for batch in batches for token in batch.tokens),
        original_sizes=torch.cat([batch.original_sizes for batch in batches]),
        targets=tuple(t for group in with_targets for t in group) if with_targets else None,
    )


@dataclass(frozen=True)
class FeaturePyramid(Batch):
    """Feature maps of one set of images, finest first: each (N, C, H_i, W_i).

    The maps cover the same (padded) input canvas; N counts images (B, or B * V for rigs).
    """

    maps: tuple[Tensor, ...]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)


@dataclass(frozen=True)
class MaskPredictions(Batch):
    """A mask for every query of the last decoder layer, coarse, over the whole canvas.

    logits (B, Q, h, w), before sigmoid, cover the padded canvas of ``canvas`` = (H, W) pixels;
    image_sizes and original_sizes (B, 2) as in the ``ImageBatch`` that they were made from.
    """

    logits: Tensor
    canvas: tuple[int, int]
    image_sizes: Tensor
    original_sizes: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("mask logits", self.logits, "B Q H W", sizes)
        check_shape("image_sizes", self.image_sizes, "B 2", sizes)
        check_shape("original_sizes", self.original_sizes, "B 2", sizes)


@dataclass(frozen=True)
class DenoisingPredictions(Batch):
    """Outputs of all decoder layers for denoising queries, see ``detr2d.denoising``.

    logits (L, B, N, K) and codes (L, B, N, D) of N = 2 * groups * objects queries.
    """

    logits: Tensor
    codes: Tensor
    groups: int
    objects: int


@dataclass(frozen=True)
class Predictions(Batch):
    """Outputs of all decoder layers, first layer first.

    logits (L, B, Q, K), before sigmoid or softmax; codes (L, B, Q, D) in the codec's code space;
    references (L + 1, B, Q, 2 or 3): the reference point that entered each layer and the one that
    left the last, normalised to [0, 1]; sampling_points (L, B, Q, P, 2 or 3): where each layer
    looked, in the same unit. Both are for eyes only: detached, and None where a system has none.
    masks: those of the last layer, None where a system predicts none. proposals: what a two-stage
    system's encoder predicts, as the one layer of predictions of their own. denoising: those of
    denoising queries, in training only.
    """

    logits: Tensor
    codes: Tensor
    references: Tensor | None = None
    sampling_points: Tensor | None = None
    masks: MaskPredictions | None = None
    proposals: Predictions | None = None
    denoising: DenoisingPredictions | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("logits", self.logits, "L B Q K", sizes)
        check_shape("codes", self.codes, "L B Q D", sizes)


@dataclass(frozen=True)
class Segments(Batch):
    """A panoptic segmentation of one image: each pixel belongs to one of S segments or to none.

    id_map (H, W) int64 at the original image size: 0 is no segment, i + 1 is segment i;
    labels (S,) int64 in [0, K); scores (S,) in [0, 1].
    """

    id_map: Tensor
    labels: Tensor
    scores: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("id_map", self.id_map, "H W", sizes)
        check_shape("labels", self.labels, "S", sizes)
        check_shape("scores", self.scores, "S", sizes)

    def __len__(self) -> int:
        return self.scores.shape[0]


@dataclass(frozen=True)
class Detections(Batch):
    """Final detections of one image or scene, best score first.

    scores (N,) in [0, 1]; labels (N,) int64 in [0, K); boxes (N, D) in the codec's box format;
    queries (N,) int64: the query that made each detection. Where a system predicts masks:
    masks (N, H, W) bool at the original image size, and ``segments``, the panoptic reading of all
    queries together; it stays whole when detections are selected.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor
    queries: Tensor
    masks: Tensor | None = None
    segments: Segments | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("scores", self.scores, "N", sizes)
        check_shape("labels", self.labels, "N", sizes)
        check_shape("boxes", self.boxes, "N D", sizes)
        check_shape("queries", self.queries, "N", sizes)
        if self.masks is not None:
            check_shape("masks", self.masks, "N H W", sizes)

    def __len__(self) -> int:
        return self.scores.shape[0]

    def select(self, keep: Tensor) -> Detections:
        """Return the detections chosen by a boolean mask (N,) or an index tensor."""
        return Detections(
            self.scores[keep],
            self.labels[keep],
            self.boxes[keep],
            self.queries[keep],
            None if self.masks is None else self.masks[keep],
            self.segments,
        )


def pad_stack(tensors: Sequence[Tensor], fill: float = 0) -> Tensor:
    """Stack tensors of equal rank and unequal sizes: (N, *max sizes), padded at the ends."""
    sizes = [max(axis) for axis in zip(*(tensor.shape for tensor in tensors), strict=True)]
    stacked = tensors[0].new_full((len(tensors), *sizes), fill)
    for slot, tensor in zip(stacked, tensors, strict=True):
        slot[tuple(slice(size) for size in tensor.shape)] = tensor
    return stacked


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is a half-precision one, else as it is."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def stack_images(images: Sequence[Tensor], divisor: int = 1) -> Tensor:
    """Stack images (..., C, H, W) of one kind: (N, ..., C, H, W), with black at the ends.

    The canvas is as large as the largest image, and until its sides are divisible by ``divisor``.
    In memory the channels of a pixel lie together, as image decoders and networks have them. A
    single image that fits is not copied.
    """
    sizes = [max(axis) for axis in zip(*(image.shape for image in images), strict=True)]
    *lead, channels, height, width = sizes
    height, width = (side + -side % divisor for side in (height, width))
    canvas = (*lead, channels, height, width)
    fits = all(tuple(image.shape) == canvas for image in images)
    if fits and len(images) == 1:
        return images[0].unsqueeze(0)
    make = images[0].new_empty if fits else images[0].new_zeros
    stacked = make((len(images), *lead, height, width, channels)).movedim(-1, -3)
    for slot, image in zip(stacked, images, strict=True):
        slot[tuple(slice(size) for size in image.shape)] = image
    return stacked
