"""Box heads of 3D systems beside the plain perceptron of ``detr2d.decoder``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detr2d.linear import Linear

GROUPS = (2, 1, 3, 2, 2)


class GroupedBoxHead(nn.Module):
    """Five small heads on one trunk that write a ``MetricBox3D`` code together (PETRv2).

    The released code calls them xy, z, size, rotation and velocity, but its weights were trained
    with the code's own order, so what they write is (x, y), (log width), (log length, z, log
    height), (sin, cos) and (vx, vy). The last layers start at zero: the first boxes are the
    references.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            Linear(channels, channels),
            nn.ReLU(inplace=True),
            Linear(channels, channels),
            nn.ReLU(inplace=True),
        )
        self.heads = nn.ModuleList(
            nn.Sequential(Linear(channels, channels), nn.ReLU(inplace=True), Linear(channels, size))
            for size in GROUPS
        )
        for index in range(len(GROUPS)):
            for parameter in self.heads.get_submodule(f"{index}.2").parameters():
                nn.init.zeros_(parameter)

    def forward(self, query: Tensor) -> Tensor:
        """Codes (..., 10), the centre as a change of the reference's logit, of queries (..., C)."""
        shared = self.trunk(query)
        ground, width, middle, rotation, velocity = (head(shared) for head in self.heads)
        length, z, height = middle.split(1, dim=-1)
        return torch.cat([ground, z, length, width, height, rotation, velocity], dim=-1)
