"""Outputs of backbones and necks against those that a case holds."""

from __future__ import annotations

import torch
from torch import Tensor

from det3d.parity.scenes import OUTPUT_TOLERANCE
from detr2d.parity.detection import Run
from detr2d.parity.fixtures import Case
from detr2d.parity.ledger import Ledger

KEPT_CHANNELS = 12


def check_features(ledger: Ledger, case: Case, run: Run) -> None:
    """Lines on slices of the stages' outputs, the neck's, and its mean magnitudes.

    Official stages are counted from the first that the official backbone hands on.
    """
    views = int(case.arrays["num_views"])
    stages = [run.captured[name] for name in sorted(run.captured) if name.startswith("backbone.")]
    count = len(ledger.has(r"bb_\d"))
    for index, stage in enumerate(stages[len(stages) - count :]):
        close(ledger, f"bb_{index}", slices(stage, views))
    neck = run.captured["neck"].maps
    for index in range(len(ledger.has(r"feat_\d"))):
        close(ledger, f"feat_{index}", slices(neck[index], views))
        mean = neck[index].double().abs().mean()
        ledger.close(f"feat_{index}_abs_mean", mean, rtol=OUTPUT_TOLERANCE)


def slices(maps: Tensor, views: int) -> Tensor:
    """The first channels of the first scene's first and last view: (2, 12, h, w)."""
    return maps[[0, views - 1], :KEPT_CHANNELS]


def close(ledger: Ledger, key: str, ours: Tensor) -> None:
    """Line on an intermediate, allowed relative to its largest value."""
    scale = 1.0
    if key in ledger.official:
        scale = max(1.0, float(torch.from_numpy(ledger.official[key]).abs().max()))
    ledger.close(key, ours, atol=OUTPUT_TOLERANCE * scale)
