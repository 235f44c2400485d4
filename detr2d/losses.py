"""Classification terms: each knows its matching cost and its loss, which differ on purpose."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detr2d.structures import at_least_float32


class FocalClasses:
    """Sigmoid classes with the focal loss (Lin et al., ICCV 2017), one logit per class.

    The cost of a class is the focal loss of calling it present minus that of calling it absent
    (Deformable DETR, released code). Labels equal to K mean "no object".
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        self.alpha = alpha
        self.gamma = gamma

    def costs(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Costs (..., Q, T) of logits (..., Q, K) against labels (..., T)."""
        logits = at_least_float32(logits)
        probability = logits.sigmoid()
        present = -self.alpha * (1 - probability) ** self.gamma * F.logsigmoid(logits)
        absent = -(1 - self.alpha) * probability**self.gamma * F.logsigmoid(-logits)
        cost = present - absent
        index = labels.unsqueeze(-2).expand(*cost.shape[:-1], labels.shape[-1])
        return cost.gather(-1, index)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Summed loss (L,) of logits (L, B, Q, K) against labels (L, B, Q), not yet normalised."""
        logits = at_least_float32(logits)
        target = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].to(logits)
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        probability = logits.sigmoid()
        miss = torch.where(target > 0, 1 - probability, probability)
        balance = torch.where(target > 0, self.alpha, 1 - self.alpha)
        return (balance * miss**self.gamma * entropy).sum((1, 2, 3))
