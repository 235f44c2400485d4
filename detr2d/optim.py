"""What changes the weights: parameter groups, the learning rate schedule and their average."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from detr2d.config import TrainConfig
from detr2d.sharding import piece

COSINE_END = 1e-3
"""The cosine schedule ends at this fraction of the peak rate (as in DETR3D's settings)."""


def parameter_groups(model: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """Groups: slow or not, decayed or not (``decayed``); empty groups are left out.

    Slow are ``model.backbone`` and ``train.slow_parameters``. Vectors (norms, biases) and embedding
    tables are not decayed. Frozen parameters are left out.
    """
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.dim() > 1 and id(parameter) not in tables
            slow = name.startswith("backbone.") or any(s in name for s in train.slow_parameters)
            groups.setdefault((slow, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": train.lr * (train.backbone_lr_factor if slow else 1.0),
            "weight_decay": train.weight_decay if decayed else 0.0,
            "decayed": decayed,
        }
        for (slow, decayed), parameters in groups.items()
    ]


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that ``train.optimizer`` names, over the model's parameter groups.

    Muon (Jordan et al., 2024) orthogonalises the momentum of every weight matrix, convolutions
    flattened to matrices, and scales it to AdamW's usual step (Liu et al., 2025, section 2.2), so
    that rates are of the same order. What is not decayed (vectors, embedding tables) and matrices
    with a side below four stay with AdamW.
    """
    groups = parameter_groups(model, train)
    if train.optimizer == "muon":
        from timm.optim.muon import Muon  # seconds to import, and few runs need it

        for group in groups:
            if not group["decayed"]:
                group["use_fallback"] = True  # timm's word for AdamW
        return Muon(groups, lr=train.lr, nesterov=True)
    return torch.optim.AdamW(groups, lr=train.lr, fused=True)


def train_only(model: nn.Module, parts: Sequence[str]) -> None:
    """Freeze everything but ``parts`` (names of submodules); nothing is frozen if there are none.

    What was frozen before stays so. Raises ValueError for a part that the model does not have.
    """
    known = {name for name, _ in model.named_modules()}
    unknown = [part for part in parts if part not in known]
    if unknown:
        choices = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"train.only: the model has no {unknown[0]}; its parts are {choices}")
    for name, parameter in model.named_parameters():
        if parts and not name.startswith(tuple(f"{part}." for part in parts)):
            parameter.requires_grad_(False)


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each optimizer step as a factor of the peak rate; holds no position."""

    train: TrainConfig
    steps_per_epoch: int

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.train.epochs * self.steps_per_epoch

    def factor(self, step: int) -> float:
        """Factor for the step with index ``step`` in [0, num_steps).

        Linear warm-up from 1 / warmup_steps to 1, then a half cosine down to ``COSINE_END``, or a
        division by ten at the start of each of ``step_epochs``, or constant.
        """
        warmup = self.train.warmup_steps
        if step < warmup:
            return (step + 1) / warmup
        if self.train.schedule == "cosine":
            progress = (step - warmup) / max(1, self.num_steps - 1 - warmup)
            return COSINE_END + (1 - COSINE_END) * 0.5 * (1 + math.cos(math.pi * progress))
        if self.train.schedule == "step":
            return 0.1 ** bisect_right(sorted(self.train.step_epochs), step // self.steps_per_epoch)
        return 1.0

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the rate of every group for ``step``; its peak rate is kept as ``peak_lr``."""
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * self.factor(step)


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and buffers; call ``update_parameters`` each step.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the first, untrained
    weights are forgotten in short runs too.
    """
    return AveragedModel(model, multi_avg_fn=_exponential_average(decay), use_buffers=True)


def _exponential_average(decay: float) -> Callable[..., None]:
    @torch.no_grad()
    def update(averages: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        if not averages[0].is_floating_point():
            torch._foreach_copy_(averages, values)
            return
        averages, values = [piece(t) for t in averages], [piece(t) for t in values]
        share = 1 - ((1 + count) / (10 + count)).clamp(max=decay)
        differences = torch._foreach_sub(values, averages)
        torch._foreach_mul_(differences, share)
        torch._foreach_add_(averages, differences)

    return update
