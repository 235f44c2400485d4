"""Batch norms: one that survives batches with nothing to average, and one with fixed statistics."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from detr2d.ops.convolution import Window, convolve
from detr2d.structures import at_least_float32


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that uses its stored statistics for fewer than two values per channel.

    A map of one pixel has no deviation (torch raises), and one of no image at all (a rig whose
    cameras are all absent) has no mean either. Neither changes the stored statistics.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise maps (N, C, H, W)."""
        if not self.training or maps.numel() >= 2 * self.num_features:
            return super().forward(maps)
        return F.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """Torchvision's: statistics, scale and shift are fixed."""

    fixed_statistics = True


class FixedStatisticsNorm(nn.Module):
    """Batch norm that always uses its stored statistics and trains only its scale and shift."""

    fixed_statistics = True
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Normalised maps (N, C, H, W)."""
        return F.batch_norm(
            features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def scale_and_shift(norm: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What a norm with fixed statistics multiplies maps by, and adds then: (C,) each."""
    scale = norm.weight.to(dtype) * (norm.running_var.to(dtype) + norm.eps).rsqrt()
    return scale, norm.bias.to(dtype) - norm.running_mean.to(dtype) * scale


def convolve_norm(
    convolution: nn.Module,
    norm: nn.Module,
    features: Tensor,
    added: Tensor | None = None,
    *,
    relu: bool = True,
) -> Tensor:
    """``relu(norm(convolution(features)) + added)``, maps (N, C', H', W') of maps (N, C, H, W).

    In half precision a norm with fixed statistics is folded into a plain convolution's weight, in
    training in every step: it trains as before, but no map is normalised. In full precision the
    order of the published code is kept, whose rounding small networks amplify.
    """
    kind, dtype = features.device.type, features.dtype
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    fixed = getattr(norm, "fixed_statistics", False) and is_plain(convolution)
    if not fixed or dtype.itemsize > 2:
        return convolve_then_norm(convolution, norm, features, added, relu=relu)
    plain: Any = convolution
    weight = at_least_float32(plain.weight)
    scale, shift = scale_and_shift(norm, weight.dtype)
    weight = weight * scale.view(-1, 1, 1, 1)
    return convolve(
        features.to(dtype),
        weight.to(dtype),
        shift.to(dtype),
        Window(plain.stride, plain.padding, plain.dilation),
        added=None if added is None else added.to(dtype),
        relu=relu,
    )


def convolve_then_norm(
    convolution: nn.Module,
    norm: nn.Module,
    features: Tensor,
    added: Tensor | None = None,
    *,
    relu: bool = True,
) -> Tensor:
    """The definition of ``convolve_norm``, step by step."""
    found = norm(convolution(features))
    found = found if added is None else found + added
    return F.relu(found, inplace=True) if relu else found


def is_plain(convolution: Any) -> bool:
    """Whether it is torch's own, not deformable, of one group and without bias."""
    return type(convolution) is nn.Conv2d and convolution.groups == 1 and convolution.bias is None
