"""Weighted sums of image features at projected points: the definition and its fast twin.

Both compute, for every query and head, the sum over cameras, levels and points of a weight times
the bilinear feature at a pixel. A point that a camera does not see has weight zero, and five of six
cameras do not see a given point: the twin touches only the pairs that count. So do the kernels of
``det3d.camera_gather_triton``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from det3d.cameras import CameraRig
from detr2d.constants import constant
from detr2d.ops.triton_devices import HAS_TRITON, triton_serves
from detr2d.structures import Batch, at_least_float32, check_shape

if HAS_TRITON:
    from det3d.camera_gather_triton import gather_pairs


@dataclass(frozen=True)
class CameraFeatures(Batch):
    """What a 3D decoder looks at: feature maps of all cameras and the rig that took them.

    table (R, C): the pixels of all maps one under the other, level by level, each in the order
    (B, V, H_i, W_i); level_sizes: (H_i, W_i), finest first; every map covers a canvas of
    ``canvas`` = (height, width) pixels; rig: calibration in pixels of that canvas.
    """

    table: Tensor
    level_sizes: tuple[tuple[int, int], ...]
    rig: CameraRig
    canvas: tuple[int, int]

    def maps(self) -> list[Tensor]:
        """The maps as images, each (B, V, C, H_i, W_i); views of the table."""
        lead = self.rig.present.shape
        rows = [lead.numel() * height * width for height, width in self.level_sizes]
        return [
            part.view(*lead, *size, -1).permute(0, 1, 4, 2, 3)
            for part, size in zip(self.table.split(rows), self.level_sizes, strict=True)
        ]


def camera_features(
    maps: Sequence[Tensor], rig: CameraRig, canvas: tuple[int, int]
) -> CameraFeatures:
    """Tabulate maps (B * V, C, H_i, W_i), at least in float32; free for channels-last maps."""
    rows = [at_least_float32(level.permute(0, 2, 3, 1)).flatten(0, 2) for level in maps]
    sizes = tuple((level.shape[-2], level.shape[-1]) for level in maps)
    return CameraFeatures(torch.cat(rows), sizes, rig, canvas)


def gather(features: CameraFeatures, pixels: Tensor, weights: Tensor, visible: Tensor) -> Tensor:
    """Sum the features that each query sees: (B, Q, C).

    pixels (B, V, Q, heads, P, 2) on the canvas; weights (B, V, Q, heads, levels, P); visible
    (B, V, Q, heads, P) bool. Head h reads the h-th of equal groups of channels. What is not
    visible has gradient zero. Raises ValueError if shapes do not fit.
    """
    _check(features, pixels, weights, visible)
    if triton_serves(features.table, pixels):
        sizes = [side for size in features.level_sizes for side in size]
        return gather_pairs(features.table, sizes, features.canvas, pixels, weights, visible)
    if pixels.device.type == "cpu":
        return gather_visible(features, pixels, weights, visible)
    return gather_all(features, pixels, weights, visible)


def gather_all(
    features: CameraFeatures, pixels: Tensor, weights: Tensor, visible: Tensor
) -> Tensor:
    """The definition of ``gather``, in ``grid_sample``: every camera, zeros outside the canvas."""
    height, width = features.canvas
    lead, heads = pixels.shape[:2], pixels.shape[3]
    weights = weights * visible.unsqueeze(-2)
    grid = 2 * pixels / constant((width, height), pixels) - 1
    grid = grid.clamp(-2, 2).transpose(2, 3).flatten(0, 2)  # (B V heads, Q, P, 2)
    sums = []
    for level, values in enumerate(features.maps()):
        values = values.to(grid).unflatten(2, (heads, -1)).flatten(0, 2)
        sampled = F.grid_sample(values, grid, align_corners=False).unflatten(0, (*lead, heads))
        sums.append(torch.einsum("bvhcqp,bvqhp->bqhc", sampled, weights[..., level, :]))
    return torch.stack(sums).sum(0).flatten(2)


def gather_visible(
    features: CameraFeatures, pixels: Tensor, weights: Tensor, visible: Tensor
) -> Tensor:
    """``gather`` over visible pairs only: one weighted bag of table rows per query and head.

    Reads the number of visible pairs back to the host, so it is for CPUs.
    """
    num_scenes, num_cameras, num_queries, heads, points = visible.shape
    order = (0, 2, 3, 1, 4)  # bags first: (B, Q, heads, V, P)
    chosen = visible.permute(order).flatten().nonzero().squeeze(1)
    pixel = pixels.permute(*order, 5).reshape(-1, 2).index_select(0, chosen)  # (M, 2)
    weight = weights.permute(0, 2, 3, 1, 5, 4).flatten(0, 4).index_select(0, chosen)  # (M, levels)
    camera = chosen // points % num_cameras
    head = chosen // (points * num_cameras) % heads
    scene = chosen // (points * num_cameras * heads * num_queries)
    image = scene * num_cameras + camera

    cells, share = _bilinear(pixel, features)  # (M, levels, 4)
    areas = [height * width for height, width in features.level_sizes]
    firsts = [num_scenes * num_cameras * first for first in (0, *accumulate(areas))][:-1]
    starts = constant(tuple(firsts), image) + image.unsqueeze(1) * constant(tuple(areas), image)
    row = starts.unsqueeze(2) + cells

    bags = torch.zeros(num_scenes * num_queries * heads + 1, dtype=torch.long)
    bags.index_add_(0, chosen // (points * num_cameras) + 1, torch.ones_like(chosen))
    summed = F.embedding_bag(
        (row * heads + head.view(-1, 1, 1)).flatten(),
        features.table.to(pixels).unflatten(1, (heads, -1)).flatten(0, 1),
        bags.cumsum(0) * (row.shape[1] * row.shape[2]),
        mode="sum",
        per_sample_weights=(share * weight.unsqueeze(2)).flatten(),
        include_last_offset=True,
    )
    return summed.view(num_scenes, num_queries, -1)


def _check(features: CameraFeatures, pixels: Tensor, weights: Tensor, visible: Tensor) -> None:
    num_scenes, num_cameras = features.rig.present.shape
    cells = sum(height * width for height, width in features.level_sizes)
    sizes = {"B": num_scenes, "V": num_cameras, "levels": len(features.level_sizes)}
    check_shape("pixels", pixels, "B V Q heads P 2", sizes)
    check_shape("weights", weights, "B V Q heads levels P", sizes)
    check_shape("visible", visible, "B V Q heads P", sizes)
    rows = {"R": num_scenes * num_cameras * cells}
    check_shape("table", features.table, "R C", rows)
    if rows["C"] % sizes["heads"]:
        raise ValueError(f"{sizes['heads']} heads cannot share {rows['C']} channels equally")


def _bilinear(pixel: Tensor, features: CameraFeatures) -> tuple[Tensor, Tensor]:
    """Row-major cell and share of the four neighbours of pixels (M, 2) in maps: (M, levels, 4).

    Neighbours outside the map have share zero, as with ``grid_sample``'s zero padding.
    """
    height, width = features.canvas
    sizes = tuple((columns, rows) for rows, columns in features.level_sizes)  # (x, y)
    scale = constant(tuple((x / width, y / height) for x, y in sizes), pixel)
    place = pixel.unsqueeze(1) * scale - 0.5  # (M, levels, 2)
    corner = place.detach().floor()
    far = place - corner
    first = corner.long()
    cell = torch.stack([first, first + 1], dim=2)  # (M, levels, 2 neighbours, 2 axes)
    limit = constant(sizes, first).unsqueeze(1)
    inside = (cell >= 0) & (cell < limit)
    x_share, y_share = (torch.stack([1 - far, far], dim=2) * inside).unbind(-1)
    x, y = cell.clamp(min=0).minimum(limit - 1).unbind(-1)  # (M, levels, 2)
    place_in_map = y.unsqueeze(3) * limit[..., 0].unsqueeze(2) + x.unsqueeze(2)
    return place_in_map.flatten(2), (y_share.unsqueeze(3) * x_share.unsqueeze(2)).flatten(2)
