"""Classification terms: each knows its matching cost and its loss, which differ on purpose."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detr2d.accumulation import Divisor
from detr2d.structures import at_least_float32


def focal_losses(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017, eq. 5) of each logit against its target in {0, 1}."""
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    miss = torch.where(targets > 0, 1 - probability, probability)
    balance = torch.where(targets > 0, alpha, 1 - alpha)
    return balance * miss**gamma * entropy


def heat_losses(logits: Tensor, heat: Tensor) -> Tensor:
    """Penalty-reduced focal loss (CenterNet, Zhou et al., 2019, eq. 1) of each logit.

    Logits where the heat is 1 are to be high; the others low, the less so the closer it is to 1.
    """
    probability = logits.sigmoid()
    hit = -F.logsigmoid(logits) * (1 - probability) ** 2
    miss = -F.logsigmoid(-logits) * probability**2 * (1 - heat) ** 4
    return torch.where(heat == 1, hit, miss)


class FocalClasses:
    """Sigmoid classes with the focal loss (Lin et al., ICCV 2017), one logit per class.

    The cost of a class is the focal loss of calling it present minus that of calling it absent
    (Deformable DETR, released code). The loss is divided by the number of objects. ``eps`` is added
    to the probabilities whose logarithms the cost takes (1e-8 in that code).
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, eps: float = 0.0) -> None:
        self.alpha = alpha
        self.gamma = gamma
        self.eps = eps

    def num_classes(self, width: int) -> int:
        """Number of classes K that ``width`` logits tell apart: all."""
        return width

    def costs(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Costs (..., Q, T) of logits (..., Q, K) against labels (..., T)."""
        logits = at_least_float32(logits)
        probability = logits.sigmoid()
        floor = logits.new_full((), self.eps).log()
        log_present = torch.logaddexp(F.logsigmoid(logits), floor)
        log_absent = torch.logaddexp(F.logsigmoid(-logits), floor)
        present = -self.alpha * (1 - probability) ** self.gamma * log_present
        absent = -(1 - self.alpha) * probability**self.gamma * log_absent
        return _at_labels(present - absent, labels)

    def losses(self, logits: Tensor, labels: Tensor, num_objects: Tensor) -> Tensor:
        """Loss (L,) of logits (L, B, Q, K) against labels (L, B, Q), K where there is no object."""
        logits = at_least_float32(logits)
        classes = torch.arange(logits.shape[-1], device=labels.device)
        target = (labels.unsqueeze(-1) == classes).to(logits)
        return focal_losses(logits, target, self.alpha, self.gamma).sum((1, 2, 3)) / num_objects

    def divisor(self, objects: Divisor, matched: int, unmatched: int) -> Divisor:
        """The number of objects."""
        return objects


class SoftmaxClasses:
    """Softmax over K classes and "no object", the last logit (DETR, section 3.1).

    The cost of a class is its negative probability. The loss is the cross entropy averaged over
    queries with weight ``no_object_weight`` for those without object, so it does not depend on the
    number of objects.
    """

    def __init__(self, no_object_weight: float = 0.1) -> None:
        self.no_object_weight = no_object_weight

    def num_classes(self, width: int) -> int:
        """Number of classes K that ``width`` logits tell apart: all but the last."""
        return width - 1

    def costs(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Costs (..., Q, T) of logits (..., Q, K + 1) against labels (..., T)."""
        return _at_labels(-at_least_float32(logits).softmax(-1), labels)

    def losses(self, logits: Tensor, labels: Tensor, num_objects: Tensor) -> Tensor:
        """Loss (L,) of logits (L, B, Q, K + 1) against labels (L, B, Q), K for no object."""
        logits = at_least_float32(logits)
        entropy = -logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        weight = torch.where(labels == logits.shape[-1] - 1, self.no_object_weight, 1.0).to(entropy)
        return (weight * entropy).sum((1, 2)) / weight.sum((1, 2))

    def divisor(self, objects: Divisor, matched: int, unmatched: int) -> Divisor:
        """The weight of all queries, of this process alone."""
        weight = matched + self.no_object_weight * unmatched
        return Divisor(objects.count.new_full((), weight), once=0)


def _at_labels(values: Tensor, labels: Tensor) -> Tensor:
    """Columns of values (..., Q, K) at labels (..., T): (..., Q, T)."""
    index = labels.unsqueeze(-2).expand(*values.shape[:-1], labels.shape[-1])
    return values.gather(-1, index)


class MaskLosses:
    """Focal and dice loss of the masks of matched queries (DETR, section 4.4 and appendix A.3).

    Predicted masks are upsampled bilinearly to the canvas; both losses look at all its pixels.
    """

    terms: tuple[str, ...] = ("mask", "dice")

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        self.alpha = alpha
        self.gamma = gamma

    def losses(self, logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """``mask`` (focal, mean over pixels) and ``dice``: logits (M, h, w), masks (M, H, W): (M,).

        ``masks`` is bool and covers the same canvas.
        """
        resized = F.interpolate(
            at_least_float32(logits).unsqueeze(1), masks.shape[-2:], mode="bilinear"
        )
        pixels, targets = resized.flatten(1), masks.flatten(1).to(resized)
        focal = focal_losses(pixels, targets, self.alpha, self.gamma).mean(1)
        return {"mask": focal, "dice": dice_losses(pixels, targets)}


def dice_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the dice coefficient, smoothed by one pixel, of (M, P) pixels: (M,)."""
    probability = logits.sigmoid()
    shared = 2 * (probability * targets).sum(-1)
    return 1 - (shared + 1) / (probability.sum(-1) + targets.sum(-1) + 1)
