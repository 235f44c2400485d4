"""Augmentations of multi-camera samples that keep images, calibration and boxes consistent.

Each is a function of a scene and a random generator. What moves in the images moves in the rig and
the boxes: the corners of the new boxes, projected by the new rig, fall on the same image content.
Images are uint8 and fill their canvas (no padding), as the data sets deliver them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as image_functional

from det3d.boxes import transform_boxes
from det3d.geometry import invert_transform, make_transform, rotation_about_z, wrap_angle
from det3d.structures import SceneBatch
from detr2d.structures import Targets

GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as in torchvision's rgb_to_grayscale


class Augmentation(Protocol):
    """A random change of a scene that depends on nothing but the scene and the generator."""

    def __call__(self, scene: SceneBatch, generator: torch.Generator) -> SceneBatch:
        """The changed scene; the given one is left as it is."""


@dataclass(frozen=True)
class WorldFlip:
    """Mirrors the world left to right (x -> -x in ref) together with every image.

    The cameras of the mirrored world are proper rotations again. Camera slots keep their order, so
    the left cameras' slots then look to the right.
    """

    probability: float = 0.5

    def __call__(self, scene: SceneBatch, generator: torch.Generator) -> SceneBatch:
        """Flip with the given probability."""
        check_no_padding(scene)
        if draw(generator, 0, 1) >= self.probability:
            return scene
        mirror = torch.tensor([-1.0, 1, 1, 1], dtype=scene.rig.intrinsics.dtype)
        flipped = scene.rig.flipped()
        # Image columns run the other way now; mirroring the camera frame as well keeps the focal
        # length positive, mirroring ref too keeps the rotation proper.
        rig = replace(
            flipped,
            intrinsics=flipped.intrinsics * mirror[:3],
            camera_from_ref=mirror[:, None] * scene.rig.camera_from_ref * mirror,
        )
        targets = map_boxes(scene, mirror_boxes)
        return replace(scene, images=scene.images.flip(-1), rig=rig, targets=targets)


@dataclass(frozen=True)
class WorldRotation:
    """Turns the ref frame about its z axis by up to ``max_angle`` radians either way."""

    max_angle: float = math.pi / 8

    def __call__(self, scene: SceneBatch, generator: torch.Generator) -> SceneBatch:
        """Rotate; the images stay as they are."""
        angle = draw(generator, -self.max_angle, self.max_angle)
        rotation = rotation_about_z(torch.tensor(angle, dtype=torch.float64))
        new_from_old = make_transform(rotation, rotation.new_zeros(3))
        targets = map_boxes(scene, lambda boxes: transform_boxes(new_from_old.to(boxes), boxes))
        rig = scene.rig.moved(invert_transform(new_from_old))
        return replace(scene, rig=rig, targets=targets)


@dataclass(frozen=True)
class WorldScale:
    """Scales the world about the ref origin, and depth with it, so that the images stay valid."""

    lower: float = 0.95
    upper: float = 1.05

    def __call__(self, scene: SceneBatch, generator: torch.Generator) -> SceneBatch:
        """Scale positions, sizes, velocities and the cameras' places by one factor."""
        factor = draw(generator, self.lower, self.upper)
        camera_from_ref = scene.rig.camera_from_ref.clone()
        camera_from_ref[..., :3, 3] *= factor
        rig = replace(scene.rig, camera_from_ref=camera_from_ref)
        return replace(scene, rig=rig, targets=map_boxes(scene, lambda b: scale_boxes(b, factor)))


@dataclass(frozen=True)
class ImageZoom:
    """Enlarges or shrinks the content of all images by one factor and shifts it at random.

    The canvas keeps its size; a factor below one leaves a black margin. The same crop is taken in
    all views, so sizes and depths stay comparable among them.
    """

    lower: float = 1.0
    upper: float = 1.2

    def __call__(self, scene: SceneBatch, generator: torch.Generator) -> SceneBatch:
        """Cut a window and resize it to the canvas."""
        check_no_padding(scene)
        factor = draw(generator, self.lower, self.upper)
        canvas = scene.images.shape[-2:]
        height, width = window = [max(1, round(side / factor)) for side in canvas]
        top, left = corner = [
            round(draw(generator, 0, 1) * (side - cut))
            for side, cut in zip(canvas, window, strict=True)
        ]
        images = image_functional.crop_image(
            scene.images.flatten(0, 1), top=top, left=left, height=height, width=width
        )
        images = image_functional.resize_image(images, list(canvas), antialias=True)
        rig = scene.rig.cropped(torch.tensor(corner), torch.tensor(window))
        rig = rig.resized(torch.tensor(canvas))
        return replace(scene, images=images.unflatten(0, scene.images.shape[:2]), rig=rig)


@dataclass(frozen=True)
class PhotometricJitter:
    """Changes brightness, contrast and saturation of each image by its own random factors.

    A strength s draws a factor from [1 - s, 1 + s]; contrast is about the image's mean grey.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def __call__(self, scene: SceneBatch, generator: torch.Generator) -> SceneBatch:
        """Change the colours; geometry stays as it is."""
        images = scene.images.flatten(0, 1)
        strengths = torch.tensor([self.brightness, self.contrast, self.saturation])
        noise = torch.rand(len(images), 3, generator=generator) * 2 - 1
        brightness, contrast, saturation = (1 + noise * strengths).unbind(1)
        changed = recolour(images, brightness, contrast, saturation)
        return replace(scene, images=changed.unflatten(0, scene.images.shape[:2]))


def recolour(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Images (N, 3, H, W) uint8 after the three changes, in this order, by factors (N,).

    All three are linear in the colours of a pixel, so they are one 3x3 matrix and an offset per
    image, and rounding and clipping happen once.
    """
    grey = torch.tensor(GREY)
    pixels = images.flatten(2).float()  # (N, 3, H * W)
    mean_grey = brightness * (pixels.mean(-1) @ grey)  # (N,)
    wash = grey.expand(3, 3)  # every output channel is the pixel's grey
    mix = saturation[:, None, None] * torch.eye(3) + (1 - saturation)[:, None, None] * wash
    mix = (brightness * contrast)[:, None, None] * mix
    offset = ((1 - contrast) * mean_grey)[:, None, None].expand(-1, 3, 1)
    changed = torch.baddbmm(offset, mix, pixels)
    return changed.round_().clamp_(0, 255).to(torch.uint8).view_as(images)


def mirror_boxes(boxes: Tensor) -> Tensor:
    """Boxes (..., 9) of the world mirrored at x = 0."""
    mirrored = boxes.clone()
    mirrored[..., 0] = -boxes[..., 0]
    mirrored[..., 6] = wrap_angle(torch.pi - boxes[..., 6])
    mirrored[..., 7] = -boxes[..., 7]
    return mirrored


def scale_boxes(boxes: Tensor, factor: float) -> Tensor:
    """Boxes (..., 9) of the world scaled about the origin; headings stay."""
    scaled = boxes * factor
    scaled[..., 6] = boxes[..., 6]
    return scaled


def map_boxes(
    scene: SceneBatch, function: Callable[[Tensor], Tensor]
) -> tuple[Targets, ...] | None:
    """The targets with ``function`` applied to all boxes, None without targets."""
    if scene.targets is None:
        return None
    return tuple(replace(t, boxes=function(t.boxes)) for t in scene.targets)


def check_no_padding(scene: SceneBatch) -> None:
    """Raise ValueError if an image does not fill the canvas."""
    canvas = torch.tensor(scene.images.shape[-2:])
    if not bool((scene.rig.image_sizes == canvas).all()):
        raise ValueError(
            f"augmentation needs images that fill the canvas of {tuple(canvas.tolist())}, got "
            f"sizes {scene.rig.image_sizes.tolist()} in sample {', '.join(scene.tokens)}"
        )


def draw(generator: torch.Generator, lower: float, upper: float) -> float:
    """A uniform random number in [lower, upper)."""
    return lower + (upper - lower) * float(torch.rand((), generator=generator))
