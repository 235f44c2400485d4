"""From camera bytes to network input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NormalizeImages(nn.Module):
    """Subtract a mean and divide by a standard deviation per channel, zero in the padding.

    Both this and ``StandardizeImages`` lay out batches of images as convolutions like them best.

    ``mean`` and ``std`` are in grey levels 0..255, in the channel order that the network was
    trained with; ``reverse_channels`` turns the data sets' RGB into BGR first (caffe weights).
    Images arrive as uint8, so that only bytes travel to the device.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float] = (123.675, 116.28, 103.53),
        std: tuple[float, float, float] = (58.395, 57.12, 57.375),
        *,
        reverse_channels: bool = False,
    ) -> None:
        super().__init__()
        self.reverse_channels = reverse_channels
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Normalise images (..., 3, H, W) whose valid areas are ``image_sizes`` (..., 2)."""
        images = channels_together(images)
        if self.reverse_channels:
            images = images.flip(-3)
        normalized = images.to(self.mean.dtype) - self.mean
        normalized /= self.std  # in place: fresh memory costs more than the arithmetic
        normalized *= valid_pixels(image_sizes, *images.shape[-2:]).unsqueeze(-3)
        return normalized


class StandardizeImages(nn.Module):
    """Give every image mean 0 and standard deviation 1 per channel, zero in the padding.

    For training from scratch on few scenes: the light of a scene, which shifts and stretches all
    its pixels alike, is gone before the first layer.
    """

    def forward(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Standardize images (..., 3, H, W) over their valid areas ``image_sizes`` (..., 2)."""
        images = channels_together(images)
        valid = valid_pixels(image_sizes, *images.shape[-2:]).unsqueeze(-3)
        count = valid.sum((-1, -2), keepdim=True).clamp(min=1)
        images = images.to(image_sizes.dtype) * valid
        mean = images.sum((-1, -2), keepdim=True) / count
        centred = (images - mean) * valid
        deviation = (centred.square().sum((-1, -2), keepdim=True) / count).sqrt()
        return centred / deviation.clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """The fixed mean and deviation, and the channel order, that weights were trained with."""

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Grey levels in 0..255, in the order of ``channels``."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """Grey levels, in the order of ``channels``."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order in which the network sees the channels; data sets give RGB."""

    def build(self) -> NormalizeImages:
        """The module that does it."""
        return NormalizeImages(self.mean, self.std, reverse_channels=self.channels == "bgr")


@dataclass(frozen=True, kw_only=True)
class Standardization:
    """Mean and deviation of each image itself, for training from scratch."""

    def build(self) -> StandardizeImages:
        """The module that does it."""
        return StandardizeImages()


IMAGENET_RGB = Normalization()
CAFFE_BGR = Normalization(mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), channels="bgr")
VOVNET_BGR = Normalization(
    mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), channels="bgr"
)


def channels_together(images: Tensor) -> Tensor:
    """A batch of images (N, 3, H, W) laid out pixel by pixel; others (..., 3, H, W) as they are.

    Convolutions keep the layout, and are faster on it. Bytes are a quarter of what normalised
    images would move.
    """
    if images.dim() != 4:
        return images
    return images.contiguous(memory_format=torch.channels_last)


def valid_pixels(image_sizes: Tensor, height: int, width: int) -> Tensor:
    """Mask (..., H, W) that is True inside each image's valid area (..., 2): (height, width)."""
    rows = torch.arange(height, device=image_sizes.device) < image_sizes[..., :1]
    columns = torch.arange(width, device=image_sizes.device) < image_sizes[..., 1:]
    return rows.unsqueeze(-1) & columns.unsqueeze(-2)


def resize_padding(padding: Tensor, height: int, width: int) -> Tensor:
    """Padding (B, H, W) bool, True outside, of the canvas at a feature map's size: (B, h, w).

    Nearest sampling of the full-resolution mask at every level, as in DETR's released code.
    """
    resized = F.interpolate(padding.unsqueeze(1).float(), (height, width), mode="nearest")
    return resized.squeeze(1) > 0.5
