"""Position embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_embedding(points: Tensor, channels: int, *, temperature: float, scale: float) -> Tensor:
    """Sines and cosines of coordinates (..., n): (..., n * channels).

    Each coordinate, multiplied by ``scale``, gets ``channels`` / 2 frequencies from 1 down to
    almost 1 / ``temperature``, sine and cosine interleaved (Vaswani et al., 2017; DETR, appendix).
    """
    exponent = torch.arange(0, channels, 2, device=points.device, dtype=points.dtype) / channels
    frequency = scale * torch.exp(-math.log(temperature) * exponent)
    angle = points.unsqueeze(-1) * frequency  # (..., n, channels / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)
