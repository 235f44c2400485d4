"""What single images answer: which object stands at this pixel, and how far away is it?

DETR3D starts from FCOS3D weights, whose features already answer these two questions. Training from
scratch asks them directly: a 1 x 1 convolution on the finest map predicts, per pixel, the class of
the object there and the log depth of its centre (Wang et al., FCOS3D, ICCVW 2021, section 3.2, in
its plainest form). The best pixels, lifted to 3D, also start queries beside the learned ones.
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
from det3d.geometry import Region
from detr2d.criterion import mean_over_processes
from detr2d.structures import Batch, Predictions, Targets, at_least_float32


@dataclass(frozen=True, kw_only=True)
class MonocularConfig:
    """Settings of the monocular branch."""

    weight: float = 1.0
    """Weight of the per-pixel losses."""
    num_queries: int = 150
    """Queries started from the best pixels, beside the learned ones."""


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
    """Predictions of a 3D system, with the per-pixel answers of one that has a monocular branch."""

    monocular: MonocularMaps | None = None


class MonocularBranch(nn.Module):
    """Per-pixel answers read off one feature map, and queries made from the best of them.

    The two-stage idea of Deformable DETR (section 4.2) with cameras: a cell whose class score is
    the highest among its neighbours becomes a reference point at the depth it answers, and its
    feature starts the query. Queries are ordered by score, so the order of the cameras does not
    matter.
    """

    def __init__(
        self,
        region: Region,
        *,
        channels: int,
        num_classes: int,
        num_queries: int,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        self.region = region
        self.num_queries = num_queries
        self.classify = nn.Conv2d(channels, num_classes, 1)
        self.locate = nn.Conv2d(channels, 1, 1)
        self.content = nn.Linear(channels, channels)
        for head, bias in ((self.classify, -math.log((1 - prior) / prior)), (self.locate, 3.0)):
            nn.init.normal_(head.weight, std=0.01)
            head.bias = nn.Parameter(torch.full((head.out_channels,), bias))

    def forward(self, features: Tensor, rig: CameraRig, canvas: tuple[int, int]) -> MonocularMaps:
        """Answers for features (B * V, C, H, W) that cover the canvas."""
        logits = at_least_float32(self.classify(features)).unflatten(0, rig.present.shape)
        log_depth = at_least_float32(self.locate(features)).unflatten(0, rig.present.shape)
        return MonocularMaps(logits, log_depth.squeeze(2), rig, canvas)

    def queries(self, maps: MonocularMaps, features: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, C) and references (B, Q, 3) in [0, 1] of the best cells, best first."""
        lead = maps.rig.present.shape
        scores = maps.logits.detach().amax(2).flatten(0, 1)  # (B V, H, W)
        peak = F.max_pool2d(scores, 3, stride=1, padding=1) == scores
        scores = scores.masked_fill(~peak, -1e4).unflatten(0, lead)
        scores = scores.masked_fill(~maps.rig.present[..., None, None], -2e4).flatten(1)
        chosen = scores.topk(min(self.num_queries, scores.shape[1]), dim=1).indices.unsqueeze(-1)

        pixels = cell_centres(maps.canvas, maps.log_depth).expand(*lead, -1, 2)
        depth = maps.log_depth.detach().flatten(2).clamp(0, 5).exp()  # 1 to 148 m
        points = self.region.to_unit(maps.rig.unproject(pixels, depth)).flatten(1, 2)
        reference = points.gather(1, chosen.expand(-1, -1, 3)).clamp(1e-3, 1 - 1e-3)
        table = features.unflatten(0, lead).permute(0, 1, 3, 4, 2).flatten(1, 3)  # (B, cells, C)
        return self.content(table.gather(1, chosen.expand(-1, -1, table.shape[-1]))), reference


class MonocularLoss:
    """Focal loss of the class at every pixel, L1 of the log depth where an object is.

    Pixels in the middle half (by width and height, at most ``reach`` pixels from the centre) of an
    object's projection belong to it, the nearest object first. Both terms are divided by the
    number of such pixels, or by 0.3 % of all where there are fewer: an almost empty scene does not
    outweigh the others. Pixels of absent cameras count nothing.
    """

    terms = ("pixel_class", "pixel_depth")

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0, reach: float = 12.0) -> None:
        self.alpha = alpha
        self.gamma = gamma
        self.reach = reach

    def __call__(self, maps: MonocularMaps, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The two scalar losses by name, not weighted."""
        size = (maps.logits.shape[-2], maps.logits.shape[-1])
        painted = [
            paint_objects(maps.rig.select_scene(scene), target, maps.canvas, size, self.reach)
            for scene, target in enumerate(targets)
        ]
        labels = torch.stack([label for label, _ in painted])  # (B, V, H, W), -1 = nothing
        log_depth = torch.stack([depth for _, depth in painted])
        objects = labels >= 0
        present = maps.rig.present[:, :, None, None]
        least = 3e-3 * present.expand_as(objects).sum()
        count = mean_over_processes(objects.sum().to(maps.logits.dtype)).maximum(least)
        wanted = F.one_hot(labels + 1, maps.logits.shape[2] + 1)[..., 1:].movedim(-1, 2)
        wanted = wanted.to(maps.logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(maps.logits, wanted, reduction="none")
        probability = maps.logits.sigmoid()
        miss = wanted + probability - 2 * wanted * probability
        balance = (1 - self.alpha + (2 * self.alpha - 1) * wanted) * present.unsqueeze(2)
        off = (maps.log_depth - log_depth).abs() * objects
        return {
            "pixel_class": (balance * miss**self.gamma * entropy).sum() / count,
            "pixel_depth": off.sum() / count,
        }


def cell_centres(canvas: tuple[int, int], like: Tensor) -> Tensor:
    """Pixels (H * W, 2) of the centres of the cells of a map (..., H, W), row by row."""
    height, width = like.shape[-2:]
    rows = (torch.arange(height, device=like.device) + 0.5) * (canvas[0] / height)
    columns = (torch.arange(width, device=like.device) + 0.5) * (canvas[1] / width)
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([u, v], dim=-1).flatten(0, 1).to(like.dtype)


def paint_objects(
    rig: CameraRig,
    targets: Targets,
    canvas: tuple[int, int],
    size: tuple[int, int],
    reach: float,
) -> tuple[Tensor, Tensor]:
    """Label (-1 where nothing is) and log depth of the object at each cell: (V, H, W) each.

    ``rig`` is of one scene; the (H, W) cells of ``size`` cover the canvas.
    """
    boxes = targets.boxes
    centre = rig.project(boxes[None, :, :3])
    corners = rig.project(box_corners(boxes).view(1, -1, 3))
    pixels = corners.pixels[0].unflatten(1, (-1, 8))  # (V, T, 8, 2)
    extent = (0.25 * (pixels.amax(2) - pixels.amin(2))).clamp(max=reach)  # (V, T, 2)
    height, width = size
    cell = boxes.new_tensor([canvas[1] / width, canvas[0] / height])
    extent = extent.maximum(0.5 * cell)
    columns = (torch.arange(width, device=boxes.device) + 0.5) * cell[0]
    rows = (torch.arange(height, device=boxes.device) + 0.5) * cell[1]
    middle = centre.pixels[0]  # (V, T, 2)
    beside = (columns - middle[..., :1]).abs() <= extent[..., :1]  # (V, T, W)
    below = (rows - middle[..., 1:]).abs() <= extent[..., 1:]  # (V, T, H)
    inside = below.unsqueeze(-1) & beside.unsqueeze(-2)
    inside = inside & centre.visible[0][..., None, None]
    if boxes.shape[0] == 0:
        nothing = torch.full((rig.num_cameras, *size), -1, device=boxes.device)
        return nothing, boxes.new_zeros(nothing.shape)
    depth = centre.depth[0][..., None, None].where(inside, torch.inf)
    nearest, which = depth.min(1)  # (V, H, W)
    found = nearest.isfinite()
    return targets.labels[which].where(found, -1), nearest.where(found, 1.0).log()
