"""Two lists of best detections, row by row."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr2d.structures import Detections

OTHER_LABEL = 1e3  # metres that a wrong label counts for


def match_rows(
    found: Detections, boxes: Tensor, labels: Tensor, scores: Tensor, *, score_allowed: float
) -> tuple[Tensor, Tensor]:
    """The row of ``found`` for each official one (N,), and which of these are beyond doubt (N,).

    Rows whose score is as good as the last one's may have been left out on either side.
    """
    cost = torch.cdist(boxes[:, :6], found.boxes[:, :6], p=1)
    cost = cost + 100 * (scores.unsqueeze(1) - found.scores).abs()
    cost = cost + OTHER_LABEL * (labels.unsqueeze(1) != found.labels)
    _, columns = linear_sum_assignment(cost.double().numpy())
    index = torch.from_numpy(columns)
    return index, scores > scores[-1] + 2 * score_allowed
