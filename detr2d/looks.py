"""Why this box: where the queries of every decoder layer looked, and how strongly.

Every cross-attention says what it looks at by a method ``looks`` with the arguments of its
``forward``, which goes through the same computation. ``LookTrace`` is hooked into a model from
outside and asks each of them while the model runs; models know nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detr2d.structures import Batch, check_shape


@dataclass(frozen=True)
class Looks(Batch):
    """Where Q queries of one layer looked: P places in each of V views (cameras; 1 for an image).

    places (B, V, Q, P, 2): x, y as fractions of the view's canvas; weights (B, V, Q, P): at least
    0, the mean over heads, summed over levels, 0 where the query does not look. They sum to 1, less
    the share of heads whose places are in no view; sigmoids (DETR3D's, one per camera index) to
    more or less. Dense attention has every cell of a ``grid`` = (height, width) as place, row by
    row; else ``grid`` is None.
    """

    places: Tensor
    weights: Tensor
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("places", self.places, "B V Q P 2", sizes)
        check_shape("weights", self.weights, "B V Q P", sizes)

    def of_query(self, query: int) -> Looks:
        """The places and weights of one query, Q = 1."""
        one = slice(query, query + 1)
        return Looks(self.places[:, :, one], self.weights[:, :, one], self.grid)


def dense_looks(weights: Tensor, grid: tuple[int, ...]) -> Looks:
    """Looks of dense attention with weights (B, Q, N) over tokens in a grid ([V,] h, w)."""
    *views, height, width = grid
    count = views[0] if views else 1
    split = weights.unflatten(-1, (count, height * width)).transpose(1, 2)  # (B, V, Q, h w)
    rows, columns = torch.meshgrid(
        torch.arange(height, device=weights.device),
        torch.arange(width, device=weights.device),
        indexing="ij",
    )
    cells = torch.stack([(columns + 0.5) / width, (rows + 0.5) / height], dim=-1).flatten(0, 1)
    return Looks(cells.expand(*split.shape, 2), split, (height, width))


def cross_attentions(model: nn.Module) -> list[nn.Module]:
    """The decoder's cross-attentions, which can say where they look, in order.

    An encoder may have attentions of the same kind; only those that a layer calls its
    ``cross_attention`` count. Raises ValueError if there is none.
    """
    found = [
        module
        for name, module in model.named_modules()
        if name.split(".")[-1] == "cross_attention" and callable(getattr(module, "looks", None))
    ]
    if not found:
        kind = type(model).__name__
        raise ValueError(f"{kind} cannot be explained: no cross-attention of it has looks()")
    return found


class LookTrace:
    """A hook that records the looks of one query, or of all, in every decoder layer.

    ``layers`` holds one ``Looks`` a cross-attention, in order of the calls, detached.
    """

    def __init__(self, query: int | None = None) -> None:
        self.query = query
        self.layers: list[Looks] = []

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[LookTrace]:
        """Record while the model runs inside the block. Raises ValueError if it cannot tell."""
        modules = cross_attentions(model)
        handles = [m.register_forward_hook(self._record) for m in modules]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def _record(self, module: Any, arguments: tuple[Any, ...], _: Any) -> None:
        looks = module.looks(*arguments)
        self.layers.append(looks if self.query is None else looks.of_query(self.query))
