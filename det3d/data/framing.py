"""How a camera's image becomes the network's: resized, cut to a window, mirrored.

A framing turns a native size into a ``Window``; pixels and calibration then follow the same
window, so points keep their place on the image content. Sizes are (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as image_functional

from det3d.cameras import CameraRig

Size = tuple[int, int]
FILTER_REACH = 2  # half the width of the bicubic filter, in pixels of the coarser grid


@dataclass(frozen=True)
class Window:
    """Resize to ``resized``, cut ``size`` at ``corner`` (top, left; outside is black), mirror."""

    resized: Size
    corner: Size
    size: Size
    mirrored: bool = False
    smooth: InterpolationMode = InterpolationMode.BILINEAR


@dataclass(frozen=True)
class Chance:
    """What is random about one scene's framing: numbers in [0, 1), the same for all cameras."""

    zoom: float
    left: float
    mirror: float


class Framing(Protocol):
    """How images are framed; a value that a config holds."""

    def draw(self, generator: torch.Generator) -> Chance | None:
        """The random numbers of one training scene; None, without drawing, if nothing is random."""

    def window(self, native: Size, image_size: Size, chance: Chance | None) -> Window:
        """The window of an image of the ``native`` size; ``chance`` is None in evaluation."""


@dataclass(frozen=True)
class Stretch:
    """Resizes every image to ``image_size``, whatever its shape."""

    def draw(self, generator: torch.Generator) -> Chance | None:
        """Nothing is random."""
        return None

    def window(self, native: Size, image_size: Size, chance: Chance | None) -> Window:
        """The whole image."""
        return Window(image_size, (0, 0), image_size)


@dataclass(frozen=True)
class NativeSize:
    """Leaves every image as it is; cameras of several sizes share a padded canvas."""

    def draw(self, generator: torch.Generator) -> Chance | None:
        """Nothing is random."""
        return None

    def window(self, native: Size, image_size: Size, chance: Chance | None) -> Window:
        """The whole image at its own size."""
        return Window(native, (0, 0), native)


@dataclass(frozen=True)
class ResizeCropFlip:
    """Keeps the shape of the content: resizes and cuts to ``image_size``, the sky first.

    In evaluation the image just covers the window: its bottom rows and middle columns are kept
    (PETR, released code). In training it is ``zoom`` times as large, at a random column, and
    mirrored with the given probability; a zoom below one can leave black margins.
    """

    zoom: tuple[float, float] = (1.0, 1.0)
    mirror: float = 0.5

    def draw(self, generator: torch.Generator) -> Chance | None:
        """Zoom, column and mirroring of one scene."""
        zoom, left, mirror = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        return Chance(self.zoom[0] + zoom * (self.zoom[1] - self.zoom[0]), left, mirror)

    def window(self, native: Size, image_size: Size, chance: Chance | None) -> Window:
        """The window for one camera."""
        cover = max(image_size[0] / native[0], image_size[1] / native[1])
        factor = cover * (chance.zoom if chance else 1.0)
        height, width = resized = (int(native[0] * factor), int(native[1] * factor))
        spare = max(0, width - image_size[1])
        left = int(spare * (chance.left if chance else 0.5))
        mirrored = chance is not None and chance.mirror < self.mirror
        corner = (height - image_size[0], left)
        return Window(resized, corner, image_size, mirrored, InterpolationMode.BICUBIC)


def frame_image(image: Tensor, window: Window) -> Tensor:
    """An image (3, H, W) uint8 seen through its window: (3, *window.size) uint8.

    Pixels stay bytes: PyTorch resizes them in Pillow's two passes with Pillow's filter, whose
    weights it rounds to 16 bits, so a value may be off by one, and in few out of a million by two.
    """
    (top, left), (height, width) = window.corner, window.size
    if tuple(image.shape[-2:]) != window.resized:
        unseen, above = rows_above(image.shape[-2], window)
        size = [window.resized[0] - above, window.resized[1]]
        image = image_functional.resize_image(
            image[:, unseen:], size, interpolation=window.smooth, antialias=True
        )
        top -= above
    if (top, left, height, width) != (0, 0, *image.shape[-2:]):
        image = image_functional.crop_image(image, top, left, height, width)
    return image.flip(-1) if window.mirrored else image


def rows_above(native: int, window: Window) -> tuple[int, int]:
    """Rows at the top of an image and of the resized one that the window does not need.

    The rest resizes to the same pixels as the whole: the ratio is the same, and so is the place of
    pixels, because rows are cut where edges of both grids meet. (0, 0) where they do not.
    """
    common = math.gcd(native, window.resized[0])
    step, resized_step = native // common, window.resized[0] // common
    reach = math.ceil(FILTER_REACH * max(1.0, native / window.resized[0])) + 1  # native rows
    steps = max(0, (window.corner[0] * step // resized_step - reach) // step)
    return steps * step, steps * resized_step


def frame_rig(rig: CameraRig, windows: Sequence[Window]) -> CameraRig:
    """The rig (1, V, ...) of native images as their windows show them; mirrored all or none."""
    resized = rig.resized(torch.tensor([[window.resized for window in windows]]))
    corners = torch.tensor([[window.corner for window in windows]])
    framed = resized.cropped(corners, torch.tensor([[window.size for window in windows]]))
    return framed.flipped() if windows[0].mirrored else framed


def pad_canvas(images: Tensor, divisor: int) -> Tensor:
    """Images (..., 3, H, W) with black rows and columns until both sides are divisible."""
    height, width = images.shape[-2:]
    missing = (0, -width % divisor, 0, -height % divisor)
    if not any(missing):
        return images
    # Of four axes, the channels may stay together in memory.
    return F.pad(images.flatten(0, -4), missing).unflatten(0, images.shape[:-3])
