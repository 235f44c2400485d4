"""The values that flow between the steps: batches in, predictions out, detections at the end.

Letters, the same everywhere: B images or scenes, V cameras, Q queries, T objects, K classes,
L decoder layers, C channels, D code size, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

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
    them. An image without objects has T = 0.
    """

    labels: Tensor
    boxes: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("labels", self.labels, "T", sizes)
        check_shape("boxes", self.boxes, "T D", sizes)

    def __len__(self) -> int:
        return self.labels.shape[0]


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
class Predictions(Batch):
    """Outputs of all decoder layers, first layer first.

    logits (L, B, Q, K), before sigmoid or softmax; codes (L, B, Q, D) in the codec's code space;
    references (L + 1, B, Q, 2 or 3): the reference point that entered each layer and the one that
    left the last, normalised to [0, 1]; sampling_points (L, B, Q, P, 2 or 3): where each layer
    looked, in the same unit. Both are for eyes only: detached, and None where a system has none.
    """

    logits: Tensor
    codes: Tensor
    references: Tensor | None = None
    sampling_points: Tensor | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("logits", self.logits, "L B Q K", sizes)
        check_shape("codes", self.codes, "L B Q D", sizes)


@dataclass(frozen=True)
class Detections(Batch):
    """Final detections of one image or scene, best score first.

    scores (N,) in [0, 1]; labels (N,) int64 in [0, K); boxes (N, D) in the codec's box format;
    queries (N,) int64: the query that made each detection.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor
    queries: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("scores", self.scores, "N", sizes)
        check_shape("labels", self.labels, "N", sizes)
        check_shape("boxes", self.boxes, "N D", sizes)
        check_shape("queries", self.queries, "N", sizes)

    def __len__(self) -> int:
        return self.scores.shape[0]

    def select(self, keep: Tensor) -> Detections:
        """Return the detections chosen by a boolean mask (N,) or an index tensor."""
        return map_tensors(self, lambda tensor: tensor[keep])


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
