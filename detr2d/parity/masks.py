"""Parity of masks and panoptic segments; pixels on the edge of a decision may differ."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detr2d.config import SystemConfig
from detr2d.parity.detection import Run
from detr2d.parity.ledger import Ledger, Line, agree_up_to_ties, same
from detr2d.segments import binary_masks, merge_segments, resize_ids
from detr2d.structures import MaskPredictions
from detr2d.systems.panoptic import PanopticDETRConfig

SCORE_TOLERANCE = 2e-5


def masks_of(run: Run) -> MaskPredictions:
    """The run's masks. Raises ValueError if there are none."""
    if run.predictions.masks is None:
        raise ValueError("the system predicts no masks")
    return run.predictions.masks


def original_size(run: Run, image: int) -> tuple[int, int]:
    """Height and width of one image before resizing."""
    height, width = run.batch.original_sizes[image].long().tolist()
    return height, width


def check_masks(ledger: Ledger, run: Run, allowed: float) -> None:
    """Lines on the binary masks of all queries at the original size."""
    masks = masks_of(run)
    for image in range(len(run.batch)):
        height, width = run.batch.image_sizes[image].long().tolist()
        size = original_size(run, image)
        upsampled = F.interpolate(masks.logits[image].unsqueeze(1), masks.canvas, mode="bilinear")
        logits = upsampled[:, 0, :height, :width]
        key = f"post_segm/{image}/"
        ledger.equal(key + "shape", np.array([len(logits), 1, *size]))
        line = partial(_masks_line, ledger, key + "masks_packed", logits, size, allowed)
        ledger.judge(key + "masks_packed", line)


def _masks_line(
    ledger: Ledger, key: str, logits: Tensor, size: tuple[int, int], allowed: float
) -> Line:
    """Masks may differ where the logit is as good as zero."""
    tied = binary_masks(allowed - logits.abs(), size)
    return agree_up_to_ties(key, binary_masks(logits, size), _unpack(ledger.take(key), size), tied)


def _unpack(packed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks (Q, H, W) bool of rows of bits."""
    bits = np.unpackbits(packed, axis=1, count=size[0] * size[1])
    return bits.reshape(-1, *size).astype(bool)


def check_panoptic(ledger: Ledger, system: SystemConfig, run: Run, allowed: float) -> None:
    """Lines on the panoptic segments at the case's own score threshold."""
    if not isinstance(system, PanopticDETRConfig):
        raise TypeError("only panoptic DETR has panoptic results")
    logits = run.predictions.logits[-1]
    no_object = logits.shape[-1] - 1
    scores, labels = logits.softmax(-1).max(-1)
    threshold = ledger.take("panoptic/threshold_used")
    keep = (labels != no_object) & (scores > threshold)
    ledger.equal("panoptic/official_threshold", system.segment_score)
    ledger.equal("panoptic/num_argmax_noobj", int((labels == no_object).sum()))
    margin = (scores[labels != no_object] - threshold).abs().min()
    ledger.close("panoptic/min_margin_to_threshold", margin, atol=SCORE_TOLERANCE)
    ledger.skip("panoptic/is_thing_map", "setting of the merging: num_things")
    for image in range(len(run.batch)):
        chosen = keep[image]
        _check_segments(
            ledger,
            run,
            image,
            chosen,
            labels=labels[image, chosen],
            scores=scores[image, chosen],
            num_things=system.num_things,
            allowed=allowed,
        )


def _check_segments(
    ledger: Ledger,
    run: Run,
    image: int,
    chosen: Tensor,
    *,
    labels: Tensor,
    scores: Tensor,
    num_things: int,
    allowed: float,
) -> None:
    """Lines on the id map and the list of segments of one image.

    The official merging squeezes the padded masks into each image's valid area where our system
    crops them; here the merging is given what the official one is given.
    """
    height, width = run.batch.image_sizes[image].long().tolist()
    size = original_size(run, image)
    squeezed = F.interpolate(
        masks_of(run).logits[image, chosen].unsqueeze(1), (height, width), mode="bilinear"
    ).squeeze(1)
    segments = merge_segments(squeezed, labels, scores, labels >= num_things, size)
    ids = (segments.id_map - 1).clamp(min=0)
    left = squeezed[torch.isin(scores, segments.scores)]  # after dropping small segments
    best = left.topk(min(2, len(left)), dim=0).values
    tied = resize_ids((best[0] - best[-1] <= 2 * allowed).long(), size).bool()
    key = f"post_panoptic/{image}/id_map"
    ledger.judge(key, lambda: agree_up_to_ties(key, ids, ledger.take(key), tied))
    ours = [
        {"id": index, "isthing": label < num_things, "category_id": label}
        for index, label in enumerate(segments.labels.tolist())
    ]
    name = f"panoptic/segments_info_{image}"
    ledger.judge(name, lambda: _segments_line(name, ours, ledger.take(name), ledger.take(key)))


def _segments_line(
    name: str, ours: list[dict[str, Any]], official: list[Any], id_map: np.ndarray
) -> Line:
    """Classes in order, and areas: those of the official id map, which is compared with ours."""
    areas = np.bincount(id_map.reshape(-1), minlength=len(official))
    return same(name, [{**s, "area": int(a)} for s, a in zip(ours, areas, strict=True)], official)
