"""Augmentations of how images look: colours of a camera that drifts, and hidden squares."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as image_functional

from det3d.data.transforms import draw
from det3d.structures import SceneBatch
from detr2d.images import valid_pixels


@dataclass(frozen=True)
class PhotometricDistortion:
    """Shifts brightness, scales contrast and saturation, turns the hue, swaps channels.

    Each happens to each image with probability one half, the contrast before or behind the colour
    (Liu et al., SSD, ECCV 2016, section 2.2; the released 3D detectors use these strengths).
    """

    brightness: float = 32.0
    """Largest shift, in grey levels of 255."""
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    """Largest turn, in degrees."""

    def __call__(self, scene: SceneBatch, generator: torch.Generator) -> SceneBatch:
        """Change the colours; geometry stays as it is."""
        images = [self._distort(image, generator) for image in scene.images.flatten(0, 1)]
        changed = torch.stack(images).unflatten(0, scene.images.shape[:2])
        return replace(scene, images=changed)

    def _distort(self, image: Tensor, generator: torch.Generator) -> Tensor:
        chances = torch.rand(6, generator=generator) < 0.5
        shift = draw(generator, -self.brightness, self.brightness)
        contrast = draw(generator, *self.contrast)
        saturation = draw(generator, *self.saturation)
        turn = draw(generator, -self.hue, self.hue)
        order = torch.randperm(3, generator=generator)
        pixels = image.float()
        if chances[0]:
            pixels = pixels + shift
        if chances[1] and chances[5]:
            pixels = pixels * contrast
        pixels = (pixels / 255).clamp(0, 1)
        if chances[2]:
            pixels = image_functional.adjust_saturation(pixels, saturation)
        if chances[3]:
            pixels = image_functional.adjust_hue(pixels, turn / 360)
        if chances[1] and not chances[5]:
            pixels = (pixels * contrast).clamp(0, 1)
        if chances[4]:
            pixels = pixels[order]
        return (pixels * 255).round().to(torch.uint8)


@dataclass(frozen=True)
class GridMask:
    """Hides a grid of squares, the same in all cameras (Chen et al., GridMask, 2020).

    The period of the grid is uniform between 2 pixels and the height of the canvas.
    """

    probability: float = 0.7
    kept: float = 0.5
    """Share of each period that is kept, in rows and in columns."""
    fill: tuple[int, int, int] = (124, 116, 104)
    """RGB of hidden pixels: the mean that networks subtract, so they see almost zero."""

    def __call__(self, scene: SceneBatch, generator: torch.Generator) -> SceneBatch:
        """Hide squares with the given probability; the padding stays black."""
        height, width = scene.images.shape[-2:]
        if draw(generator, 0, 1) >= self.probability:
            return scene
        period = int(torch.randint(2, max(3, height), (), generator=generator))
        row, column = torch.randint(period, (2,), generator=generator).tolist()
        keep = grid_of_squares(height, width, period=period, start=(row, column), kept=self.kept)
        hidden = ~keep & valid_pixels(scene.rig.image_sizes, height, width).unsqueeze(2)
        fill = torch.tensor(self.fill, dtype=scene.images.dtype).view(3, 1, 1)
        return replace(scene, images=torch.where(hidden, fill, scene.images))


def grid_of_squares(
    height: int, width: int, *, period: int, start: tuple[int, int], kept: float
) -> Tensor:
    """Mask (H, W) bool, True where pixels are kept: stripes of rows and columns, every period.

    ``start`` is where the first stripes begin, on a canvas half as large again whose middle is the
    image. The official code's rounding decides the width of a stripe.
    """
    stripe = min(max(int(period * kept + 0.5), 1), period - 1)
    lines = []
    for side, first in zip((height, width), start, strict=True):
        large = int(1.5 * side)
        place = torch.arange(large) - first
        whole = place < large // period * period  # an unfinished last period has no stripe
        on = (place >= 0) & (place % period < stripe) & whole
        offset = (large - side) // 2
        lines.append(on[offset : offset + side])
    return lines[0].unsqueeze(1) | lines[1]
