"""Batch norm that survives batches with nothing to average."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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
