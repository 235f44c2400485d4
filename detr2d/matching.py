"""One-to-one matching of predictions and objects, with one copy to the host for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr2d.structures import Batch, at_least_float32

WORST = 1e9  # instead of costs that are not finite


@dataclass(frozen=True)
class Matches(Batch):
    """M matched pairs as four index tensors (M,): layer, image, query and object of the image."""

    layers: Tensor
    images: Tensor
    queries: Tensor
    objects: Tensor

    def __len__(self) -> int:
        return self.layers.shape[0]


def match(cost: Tensor, num_objects: Sequence[int]) -> Matches:
    """Assign objects to queries at the least total cost, for each layer and image on its own.

    cost (L, B, Q, T), padded along T; image b has ``num_objects[b]`` objects. With more objects
    than queries, every query gets one. Costs that are not finite count as worse than any other: the
    losses of such predictions say so, and a process that raised here would leave others waiting.
    """
    host = at_least_float32(cost.detach()).cpu().numpy()
    host = np.nan_to_num(host, nan=WORST, posinf=WORST, neginf=WORST)
    images = max(len(num_objects), 1)
    found = [
        linear_sum_assignment(table[:, :count].T)  # (T, Q): scipy is faster on the wide side
        for layer in host
        for table, count in zip(layer, num_objects, strict=True)
    ]
    counts = np.array([len(objects) for objects, _ in found], dtype=np.int64)
    place, none = np.repeat(np.arange(len(found)), counts), counts[:0]
    objects, queries = (np.concatenate([none, *(pair[side] for pair in found)]) for side in (0, 1))
    pairs = np.stack([place // images, place % images, queries, objects])
    return Matches(*torch.from_numpy(pairs).to(cost.device, non_blocking=True).unbind(0))
