"""Dense supervision for image features: what stands at this pixel, and how far away is it?

DETR3D starts from FCOS3D weights, whose features already answer these two questions. Training from
scratch asks them directly: a single 1 x 1 convolution on the finest map predicts, per pixel, the
class of the object there and the log depth of its centre (Wang et al., FCOS3D, ICCVW 2021, section
3.2, in its plainest form). It is used in training only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det3d.boxes import box_corners
from det3d.cameras import CameraRig
from detr2d.criterion import mean_over_processes
from detr2d.structures import Batch, Predictions, Targets, at_least_float32


@dataclass(frozen=True)
class MonocularMaps(Batch):
    """Per-pixel answers of all cameras.

    logits (B, V, K, H, W) before the sigmoid; log_depth (B, V, H, W): log metres along the optical
    axis; both cover a canvas of ``canvas`` = (height, width) pixels; rig: calibration on it.
    """

    logits: Tensor
    log_depth: Tensor
    rig: CameraRig
    canvas: tuple[int, int]


@dataclass(frozen=True)
class ScenePredictions(Predictions):
    """Predictions of a 3D system, with the per-pixel answers it was asked for in training."""

    monocular: MonocularMaps | None = None


class MonocularHead(nn.Module):
    """A linear read-out of class and log depth at every pixel of one feature map."""

    def __init__(self, channels: int, num_classes: int, prior: float = 0.01) -> None:
        super().__init__()
        self.readout = nn.Conv2d(channels, num_classes + 1, 1)
        nn.init.normal_(self.readout.weight, std=0.01)
        nn.init.constant_(self.readout.bias, -math.log((1 - prior) / prior))
        with torch.no_grad():
            self.readout.bias[-1] = 3.0  # log of 20 m

    def forward(self, features: Tensor, rig: CameraRig, canvas: tuple[int, int]) -> MonocularMaps:
        """Answers for features (B * V, C, H, W)."""
        answers = at_least_float32(self.readout(features)).unflatten(0, rig.present.shape)
        return MonocularMaps(answers[:, :, :-1], answers[:, :, -1], rig, canvas)


class MonocularLoss:
    """Focal loss of the class at every pixel, L1 of the log depth where an object is.

    Pixels in the middle half (by width and height) of an object's projection belong to it, the
    nearest object first. Both terms are divided by the number of such pixels.
    """

    terms = ("pixel_class", "pixel_depth")

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0) -> None:
        self.alpha = alpha
        self.gamma = gamma

    def __call__(self, maps: MonocularMaps, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The two scalar losses by name, not weighted."""
        size = (maps.logits.shape[-2], maps.logits.shape[-1])
        painted = [
            paint_objects(maps.rig.select_scene(scene), target, maps.canvas, size)
            for scene, target in enumerate(targets)
        ]
        labels = torch.stack([label for label, _ in painted])  # (B, V, H, W), -1 = nothing
        log_depth = torch.stack([depth for _, depth in painted])
        objects = labels >= 0
        count = mean_over_processes(objects.sum().to(maps.logits.dtype)).clamp(min=1)
        wanted = F.one_hot(labels + 1, maps.logits.shape[2] + 1)[..., 1:].movedim(-1, 2)
        wanted = wanted.to(maps.logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(maps.logits, wanted, reduction="none")
        probability = maps.logits.sigmoid()
        miss = wanted + probability - 2 * wanted * probability
        balance = 1 - self.alpha + (2 * self.alpha - 1) * wanted
        off = (maps.log_depth - log_depth).abs() * objects
        return {
            "pixel_class": (balance * miss**self.gamma * entropy).sum() / count,
            "pixel_depth": off.sum() / count,
        }


def paint_objects(
    rig: CameraRig, targets: Targets, canvas: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Label (-1 where nothing is) and log depth of the object at each cell: (V, H, W) each.

    ``rig`` is of one scene; the (H, W) cells of ``size`` cover the canvas.
    """
    boxes = targets.boxes
    centre = rig.project(boxes[None, :, :3])
    corners = rig.project(box_corners(boxes).view(1, -1, 3))
    pixels = corners.pixels[0].unflatten(1, (-1, 8))  # (V, T, 8, 2)
    reach = 0.25 * (pixels.amax(2) - pixels.amin(2))  # (V, T, 2)
    height, width = size
    cell = boxes.new_tensor([canvas[1] / width, canvas[0] / height])
    reach = reach.maximum(0.5 * cell)
    columns = (torch.arange(width, device=boxes.device) + 0.5) * cell[0]
    rows = (torch.arange(height, device=boxes.device) + 0.5) * cell[1]
    middle = centre.pixels[0]  # (V, T, 2)
    beside = (columns - middle[..., :1]).abs() <= reach[..., :1]  # (V, T, W)
    below = (rows - middle[..., 1:]).abs() <= reach[..., 1:]  # (V, T, H)
    inside = below.unsqueeze(-1) & beside.unsqueeze(-2)
    inside = inside & centre.visible[0][..., None, None]
    if boxes.shape[0] == 0:
        nothing = torch.full((rig.num_cameras, *size), -1, device=boxes.device)
        return nothing, boxes.new_zeros(nothing.shape)
    depth = centre.depth[0][..., None, None].where(inside, torch.inf)
    nearest, which = depth.min(1)  # (V, H, W)
    found = nearest.isfinite()
    return targets.labels[which].where(found, -1), nearest.where(found, 1.0).log()
