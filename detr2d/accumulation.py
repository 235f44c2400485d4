"""Micro-batches that add up to one large batch.

A loss term is a sum over a micro-batch divided by a number of objects, queries or cells. For the
gradients of a large batch each sum has to be divided by the number of the whole optimizer step:
every micro-batch counts by its share of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detr2d.structures import Predictions


@dataclass(frozen=True)
class Divisor:
    """What a loss term is divided by: a count () averaged over processes, at least a floor.

    The floor of a whole step is the sum of the floors of its micro-batches (``each``), and at least
    ``once``.
    """

    count: Tensor
    once: float = 1.0
    each: float = 0.0

    def value(self) -> Tensor:
        """The number () that is divided by."""
        return self.count.clamp(min=max(self.once, self.each))


def total(divisors: Sequence[Divisor]) -> Divisor:
    """The divisor of all micro-batches together."""
    count = torch.stack([divisor.count for divisor in divisors]).sum()
    return Divisor(count, max(d.once for d in divisors), sum(d.each for d in divisors))


@dataclass(frozen=True)
class Shares:
    """How much the loss terms of each micro-batch of a step count; those of one batch count 1."""

    of_terms: tuple[dict[str, Tensor], ...]
    otherwise: float

    def weigh(self, position: int, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses by name of the micro-batch at ``position``, each times its share.

        ``layer0/class`` and ``proposals/class`` have the share of ``class``. Terms without a
        divisor count as means over micro-batches do.
        """
        if self.otherwise == 1:
            return losses
        terms = self.of_terms[position]
        return {
            name: value * terms.get(name.rsplit("/", 1)[-1], self.otherwise)
            for name, value in losses.items()
        }


def step_shares(criterion: Any, predictions: Predictions, group: Sequence[Any]) -> Shares:
    """Shares of the micro-batches of one step.

    ``predictions`` of any of them tell shapes. Criteria without ``divisors`` (see
    ``detr2d.config.Criterion``) have the mean over micro-batches.
    """
    if len(group) == 1 or not hasattr(criterion, "divisors"):
        return Shares(tuple({} for _ in group), 1 / len(group))
    found = [criterion.divisors(predictions, batch) for batch in group]
    totals = {term: total([divisors[term] for divisors in found]).value() for term in found[0]}
    shares = ({t: d.value() / totals[t] for t, d in divisors.items()} for divisors in found)
    return Shares(tuple(shares), 1 / len(group))
