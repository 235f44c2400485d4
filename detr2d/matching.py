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
    pairs: list[np.ndarray] = [np.zeros((4, 0), dtype=np.int64)]
    for layer, layer_cost in enumerate(host):
        for image, count in enumerate(num_objects):
            table = layer_cost[image, :, :count].T  # (T, Q): scipy is faster on the wide side
            table = np.nan_to_num(table, nan=WORST, posinf=WORST, neginf=WORST)
            objects, queries = linear_sum_assignment(table)
            fixed = np.broadcast_to(np.array([[layer], [image]]), (2, len(objects)))
            pairs.append(np.concatenate([fixed, queries[None], objects[None]]))
    indices = torch.from_numpy(np.concatenate(pairs, axis=1)).to(cost.device, non_blocking=True)
    return Matches(*indices.unbind(0))
