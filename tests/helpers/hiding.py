"""What memories lack once the places that a query looked at carry nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from det3d.camera_gather import CameraFeatures
from detr2d.attention import Memory
from detr2d.deformable import MultiScaleMemory
from detr2d.looks import Looks


def cells_read(looks: Looks, level_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Cells (R,) bool that bilinear sampling reads at places with a weight.

    All levels are counted, one after the other, in each the views, row by row.
    """
    count = looks.places.shape[1] * sum(height * width for height, width in level_sizes)
    cells, start = torch.zeros(count, dtype=torch.bool), 0
    for height, width in level_sizes:
        for view in range(looks.places.shape[1]):
            places = looks.places[0, view][looks.weights[0, view] > 0]
            corner = (places * torch.tensor([width, height]) - 0.5).floor().long()
            for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
                x, y = corner[:, 0] + dx, corner[:, 1] + dy
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                cells[start + (y * width + x)[inside]] = True
            start += height * width
    return cells


@singledispatch
def hidden(memory: Any, layers: Sequence[Looks]) -> Any:
    """The memory of one image or scene without what the layers' looks show."""
    raise NotImplementedError(type(memory))


@hidden.register
def _(memory: Memory, layers: Sequence[Looks]) -> Memory:
    """Dense attention sees everything: the half of the tokens with more weight goes."""
    total = torch.stack([looks.weights[0, :, 0] for looks in layers]).sum(0).flatten()
    heavy = total >= total.median()
    return replace(memory, tokens=memory.tokens * ~heavy[:, None])


@hidden.register
def _(memory: MultiScaleMemory, layers: Sequence[Looks]) -> MultiScaleMemory:
    cells = torch.stack([cells_read(looks, memory.spatial_shapes) for looks in layers]).any(0)
    return replace(memory, tokens=memory.tokens * ~cells[:, None])


@hidden.register
def _(memory: CameraFeatures, layers: Sequence[Looks]) -> CameraFeatures:
    rows = torch.stack([cells_read(looks, memory.level_sizes) for looks in layers]).any(0)
    return replace(memory, table=memory.table * ~rows[:, None])
