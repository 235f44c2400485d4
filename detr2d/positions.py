"""Position embeddings of points and of the cells of a feature map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EPS = 1e-6  # keeps rows and columns that are all padding finite


def sine_embedding(points: Tensor, channels: int, *, temperature: float, scale: float) -> Tensor:
    """Sines and cosines of coordinates (..., n): (..., n * channels).

    Each coordinate, multiplied by ``scale``, gets ``channels`` / 2 frequencies from 1 down to
    almost 1 / ``temperature``, sine and cosine interleaved (Vaswani et al., 2017; DETR, appendix).
    The order of operations is DETR's, so that its official outputs are met to the last bit; so are
    frequencies in float32 for points of any precision.
    """
    exponent = torch.arange(0, channels, 2, device=points.device, dtype=torch.float32) / channels
    angle = points.unsqueeze(-1) * scale / temperature**exponent  # (..., n, channels / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)


def cell_counts(padding: Tensor) -> Tensor:
    """Number (B, h, w, 2) of each cell among the valid ones: (row, column) from 1, float32.

    padding (B, h, w) bool, True outside the image.
    """
    valid = (~padding).float()
    return torch.stack([valid.cumsum(1), valid.cumsum(2)], dim=-1)


def cell_positions(padding: Tensor, offset: float = 0.0) -> Tensor:
    """Place (B, h, w, 2) of each cell: its number plus ``offset``, by that of the last valid one.

    (row, column); the edges of the valid area are at 0 and 1 where the offset is -0.5.
    """
    rows, columns = cell_counts(padding).unbind(-1)
    places = (rows + offset) / (rows[:, -1:] + EPS), (columns + offset) / (columns[:, :, -1:] + EPS)
    return torch.stack(places, dim=-1)


class SinePositions(nn.Module):
    """Sine embedding of each cell's place in the image (DETR, appendix A.4), float32.

    DETR counts a cell's lower right corner; Deformable DETR its centre, with ``offset`` -0.5.
    """

    def __init__(self, channels: int, *, temperature: float = 1e4, offset: float = 0.0) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"sine positions need channels divisible by 4, got {channels}")
        self.channels = channels
        self.temperature = temperature
        self.offset = offset

    def forward(self, padding: Tensor) -> Tensor:
        """Embedding (B, h, w, C), the row's half first, of padding (B, h, w), True outside."""
        return sine_embedding(
            cell_positions(padding, self.offset),
            self.channels // 2,
            temperature=self.temperature,
            scale=2 * math.pi,
        )


class LearnedPositions(nn.Module):
    """A learned vector per row and per column of the feature map (DETR, ablations, table 3).

    Rows and columns are counted from the top left; padding plays no role. The map has at most
    ``size`` rows and columns.
    """

    def __init__(self, channels: int, size: int = 50) -> None:
        super().__init__()
        self.size = size
        self.rows = nn.Embedding(size, channels // 2)
        self.columns = nn.Embedding(size, channels // 2)
        nn.init.uniform_(self.rows.weight)
        nn.init.uniform_(self.columns.weight)

    def forward(self, padding: Tensor) -> Tensor:
        """Embedding (B, h, w, C), the column's half first, for padding (B, h, w).

        Raises ValueError if the map is larger than the tables.
        """
        batch, height, width = padding.shape
        if max(height, width) > self.size:
            raise ValueError(
                f"learned positions fit maps up to {self.size} cells a side, got {height} × {width}"
            )
        columns = self.columns.weight[:width].expand(height, -1, -1)
        rows = self.rows.weight[:height].unsqueeze(1).expand(-1, width, -1)
        return torch.cat([columns, rows], dim=-1).expand(batch, -1, -1, -1)
