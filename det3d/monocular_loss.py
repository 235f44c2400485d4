"""Training of the monocular branch: what every cell should answer, and how wrong it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from det3d.boxes import box_corners
from det3d.cameras import CameraRig, Projection
from det3d.monocular import (
    ANSWER_SIZE,
    MonocularConfig,
    MonocularMaps,
    answered_depth,
    cell_size,
)
from det3d.structures import SceneBatch
from det3d.view_rays import cell_centres, headings, unturn, view_rays
from detr2d.accumulation import Divisor
from detr2d.constants import constant
from detr2d.criterion import mean_over_processes
from detr2d.losses import heat_losses
from detr2d.structures import Batch, Targets

WEIGHTS = (0.5, 0.5, 1, 0.3, 0.3, 0.3, 0.15, 0.15, 0.03, 0.03, 0.6, 0)
"""L1 weights of a cell's answer: offset, metres, size, yaw, velocity, lower face, trust."""
CLASS_WEIGHT, DEPTH_WEIGHT = 1.5, 3.0
"""Places decide the benchmark's matches, so depth weighs more than the rest of the box."""
LOWEST = 30.0  # cells; lower faces beyond are of boxes that the camera almost touches


@dataclass(frozen=True)
class WantedMaps(Batch):
    """What the cells of V cameras should answer about one scene.

    heat (V, K, H, W) in [0, 1], 1 at the cell of an object's centre; owned (V, H, W) bool: an
    object's box is asked for here; answers (V, 12, H, W) as ``MonocularMaps`` has them, NaN where
    the velocity is unknown; log_depth (V, H, W) of the owner's centre, in log metres.
    """

    heat: Tensor
    owned: Tensor
    answers: Tensor
    log_depth: Tensor


class MonocularLoss:
    """Penalty-reduced focal loss of the class heat, L1 of box and log depth where an object is.

    CenterNet (Zhou et al., Objects as points, 2019), eq. 1, with boxes asked for not at the centre
    alone but in the middle half of the projected box, at most ``reach`` pixels from its centre. The
    heat is divided by the number of centres, the boxes by the number of cells that own one; both by
    at least 1 per scene. Absent cameras count nothing. ``weight`` scales all three.
    """

    terms = ("pixel_class", "pixel_box", "pixel_depth")

    def __init__(self, *, reach: float = 8.0, weight: float = 1.0) -> None:
        self.reach = reach
        self.weight = weight

    def __call__(self, maps: MonocularMaps, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The weighted scalar losses by name."""
        wanted = self.paint(maps, maps.rig, targets)
        heat = torch.stack([w.heat for w in wanted]).to(maps.logits)
        owned = torch.stack([w.owned for w in wanted]).to(maps.logits)
        answers = torch.stack([w.answers for w in wanted])  # (B, V, 12, H, W)
        log_depth = torch.stack([w.log_depth for w in wanted])

        known = answers.isfinite() & (owned.unsqueeze(2) > 0)
        off = (maps.answers - answers.where(known, maps.answers.detach())).abs()
        weights = constant(WEIGHTS, off)[:, None, None]
        burnt = heat_losses(maps.logits, heat) * maps.rig.present[..., None, None, None]
        too_deep = (answered_depth(maps) - log_depth).abs() * owned
        centres, cells = (divisor.value() for divisor in count_wanted(wanted))
        return {
            "pixel_class": self.weight * CLASS_WEIGHT * burnt.sum() / centres,
            "pixel_box": self.weight * (off * weights).sum() / cells,
            "pixel_depth": self.weight * DEPTH_WEIGHT * too_deep.sum() / cells,
        }

    def divisors(self, maps: MonocularMaps, batch: SceneBatch) -> dict[str, Divisor]:
        """What each term of a batch is divided by; ``maps`` tell canvas, sizes and cameras.

        They are of the batch's first cameras; those of an earlier moment come behind.
        """
        device = maps.logits.device
        rig = batch.rig.select(range(maps.rig.num_cameras)).to(device)
        targets = [target.to(device) for target in batch.targets or ()]
        centres, cells = count_wanted(self.paint(maps, rig, targets))
        return {"pixel_class": centres, "pixel_box": cells, "pixel_depth": cells}

    def paint(
        self, maps: MonocularMaps, rig: CameraRig, targets: Sequence[Targets]
    ) -> list[WantedMaps]:
        """What the cells of maps like ``maps`` should answer about each scene of a rig."""
        size, num_classes = (maps.logits.shape[-2], maps.logits.shape[-1]), maps.logits.shape[2]
        return [
            paint_objects(
                rig.select_scene(scene), target, maps.canvas, size, num_classes, self.reach
            )
            for scene, target in enumerate(targets)
        ]


def paint_objects(
    rig: CameraRig,
    targets: Targets,
    canvas: tuple[int, int],
    size: tuple[int, int],
    num_classes: int,
    reach: float,
) -> WantedMaps:
    """What the cells of a map of ``size`` that covers the canvas should answer.

    ``rig`` is of one scene. An object counts in the cameras that see its centre; where two claim a
    cell, the nearer one owns it.
    """
    boxes, num_cameras = targets.boxes, rig.num_cameras
    if not len(boxes):
        nothing = boxes.new_zeros(num_cameras, *size)
        heat = nothing.unsqueeze(1).expand(-1, num_classes, -1, -1)
        answers = nothing.unsqueeze(1).expand(-1, ANSWER_SIZE, -1, -1)
        return WantedMaps(heat, nothing > 0, answers, nothing)
    centre = rig.project(boxes[None, :, :3])
    pixels, visible = centre.pixels[0], centre.visible[0]  # (V, T, 2), (V, T)
    corners = rig.project(box_corners(boxes).view(1, -1, 3)).pixels[0].unflatten(1, (-1, 8))
    half = 0.5 * (corners.amax(2) - corners.amin(2))  # (V, T, 2)

    like = boxes.new_empty(size)
    cell = constant(cell_size(canvas, like), boxes)
    grid = cell_centres(canvas, like).to(boxes).unflatten(0, size)  # (H, W, 2)
    away = [
        grid[0, :, 0] - pixels[..., :1],
        grid[:, 0, 1] - pixels[..., 1:],
    ]  # (V, T, W), (V, T, H)

    bell = (half / 3).clamp(min=0.6 * cell, max=2.5 * cell)
    across, down = (torch.exp(-0.5 * (d / bell[..., i : i + 1]) ** 2) for i, d in enumerate(away))
    heat = down.unsqueeze(-1) * across.unsqueeze(-2) * visible[..., None, None]
    heat = _burn_centres(heat, pixels / cell, visible)
    classes = heat.new_zeros(num_cameras, num_classes, *size)
    index = targets.labels[None, :, None, None].expand_as(heat)
    classes = classes.scatter_reduce(1, index, heat, "amax")

    extent = (0.5 * half).clamp(max=reach).maximum(0.5 * cell)
    beside, below = (d.abs() <= extent[..., i : i + 1] for i, d in enumerate(away))
    inside = below.unsqueeze(-1) & beside.unsqueeze(-2) & visible[..., None, None]
    depth, owner = centre.depth[0][..., None, None].where(inside, torch.inf).min(1)  # (V, H, W)
    owned = depth.isfinite()
    answers = _answers_about(boxes, owner.flatten(1), rig, grid.flatten(0, 1), cell)
    return WantedMaps(classes, owned, answers.unflatten(2, size), depth.where(owned, 1.0).log())


def _burn_centres(heat: Tensor, places: Tensor, visible: Tensor) -> Tensor:
    """Heat (V, T, H, W) that is 1 in the cell of each visible place (V, T, 2), (x, y) in cells."""
    height, width = heat.shape[-2:]
    column, row = places.long().unbind(-1)
    cell = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)  # (V, T)
    here = torch.arange(height * width, device=cell.device) == cell.unsqueeze(-1)
    return heat.masked_fill((here & visible.unsqueeze(-1)).unflatten(2, (height, width)), 1)


def _answers_about(
    boxes: Tensor, owner: Tensor, rig: CameraRig, grid: Tensor, cell: Tensor
) -> Tensor:
    """What cells with centres (N, 2) answer about their owners (V, N) among boxes (T, 9)."""
    floor = boxes[:, :3] - 0.5 * boxes[:, 5:6] * constant((0, 0, 1), boxes)
    centre, lower = (rig.project(points.unsqueeze(0)) for points in (boxes[:, :3], floor))

    def offsets(projection: Projection) -> Tensor:
        pixels = projection.pixels[0].gather(1, owner.unsqueeze(-1).expand(-1, -1, 2))
        return (pixels - grid) / cell  # (V, N, 2)

    focal = rig.intrinsics[0, :, :1, 0] / cell[0]  # (V, 1): cells that a metre is wide at one metre
    metres = centre.depth[0].gather(1, owner).clamp(min=0.1) / focal
    own = boxes[owner]  # (V, N, 9)
    heading = headings(view_rays(rig, grid))[0]
    yaw = unturn(torch.stack([own[..., 6].cos(), own[..., 6].sin()], dim=-1), heading)
    velocity = unturn(own[..., 7:9], heading)
    below = offsets(lower)[..., 1:].clamp(-LOWEST, LOWEST)
    parts = [offsets(centre), metres.log().unsqueeze(-1), own[..., 3:6].log(), yaw, velocity, below]
    return torch.cat([*parts, torch.zeros_like(below)], dim=-1).transpose(1, 2)


def count_wanted(wanted: Sequence[WantedMaps]) -> tuple[Divisor, Divisor]:
    """Numbers of centres and of owned cells of all scenes, each at least one per scene."""

    def count(masks: list[Tensor]) -> Divisor:
        number = torch.stack([mask.sum().float() for mask in masks]).sum()
        return Divisor(mean_over_processes(number), once=0, each=len(masks))

    return count([w.heat == 1 for w in wanted]), count([w.owned for w in wanted])


def monocular_loss(settings: MonocularConfig | None) -> MonocularLoss | None:
    """The loss of the branch that ``settings`` ask for; None without settings."""
    return None if settings is None else MonocularLoss(weight=settings.weight)
