"""Boxes in our format, judged by themselves and against the objects that they should be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from det3d.doctor.conventions import (
    ENOUGH,
    MOVING,
    NAMES,
    Sizes,
    compare_sizes,
    judge_headings,
    judge_sizes,
    moving_vehicles,
    travel,
)
from det3d.evaluation.conventions import ELONGATED, OURS
from det3d.results.geometry import Array
from detr2d.doctor.findings import Finding, gather

REACH = 2.0  # metres between the centres of a detection and its object, seen from above
BOTTOM = 0.3  # share of the height by which centres may lie too low


@dataclass(frozen=True)
class Sample:
    """The boxes (N, 9) of one sample in our format, class names, and scores (N,) if any."""

    token: str
    boxes: Array
    names: tuple[str, ...]
    scores: Array | None = None


def judge_alone(
    samples: Sequence[Sample], where: str, written: tuple[str, ...] = NAMES
) -> Iterable[Finding]:
    """Sizes and headings by what is known of classes, and sizes and scores out of range.

    ``written`` is the order in which the file gives sizes, of which ``boxes`` are the translation.
    """
    degenerate = [
        f"sample {s.token}: {row[3:6].round(3).tolist()}"
        for s in samples
        for row in s.boxes
        if row[3:6].min() <= 0
    ]
    yield from gather(
        "error", "degenerate-box", where, degenerate, "boxes without length, width or height"
    )
    if not any(len(s.boxes) for s in samples):
        yield Finding("warning", "no-boxes", where, "there is not a single box")
        return
    boxes = np.concatenate([s.boxes for s in samples])
    names = [name for s in samples for name in s.names]
    sizes = judge_sizes(boxes[:, [3 + NAMES.index(word) for word in written]], names, written)
    moving = moving_vehicles(names, boxes[:, 7:9])
    headings = judge_headings(boxes[moving, 6], travel(boxes[moving, 7:9]))
    yield from size_findings(sizes, where)
    if headings.turned:
        yield Finding(
            "error", "yaw", where,
            f"headings look like {headings.reading} against velocities: {headings.evidence}", OURS,
        )  # fmt: skip
    if sizes.count >= ENOUGH and not sizes.swapped and not headings.turned:
        said = f"sizes read as {', '.join(written)} ({sizes.evidence})"
        if headings.count >= ENOUGH:
            said += f"; yaw points where objects drive ({headings.evidence})"
        yield Finding("note", "box-convention", where, said)


def size_findings(sizes: Sizes, where: str) -> Iterable[Finding]:
    """Findings of sizes in another order or unit."""
    if sizes.swapped:
        yield Finding(
            "error", "size-order", where,
            f"sizes look like {', '.join(sizes.order)} instead of {', '.join(sizes.given)}: "
            + sizes.evidence,
            OURS,
        )  # fmt: skip
    if sizes.other_unit:
        yield Finding(
            "error", "size-unit", where,
            f"sizes are {sizes.scale:.2f} times the usual ones: {sizes.evidence}",
            "sizes are whole sides in metres: not logarithms, not halves, not centimetres",
        )  # fmt: skip


def judge_scores(samples: Sequence[Sample], where: str) -> Iterable[Finding]:
    """Scores outside [0, 1], and scores that are all the same."""
    scores = [s.scores for s in samples if s.scores is not None]
    if not scores:
        return
    joined = np.concatenate(scores)
    outside = joined[~((joined >= 0) & (joined <= 1))]
    yield from gather(
        "error", "score-range", where, outside.tolist(), "scores outside 0 to 1",
        "write probabilities, not logits or percent",
    )  # fmt: skip
    if len(joined) > 2 * ENOUGH and np.ptp(joined) == 0 and joined[0] < 1:
        yield Finding(
            "warning", "score-constant", where, f"all {len(joined)} scores are {joined[0]:g}",
            "average precision ranks by score: without ranking it means nothing",
        )  # fmt: skip


@dataclass(frozen=True)
class Pairs:
    """Detections (P, 9) and the objects (P, 9) that they were matched to, with class names."""

    found: Array
    truth: Array
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def match(found: Sequence[Sample], truth: Sequence[Sample]) -> Pairs:
    """Each object with the nearest detection of its class within ``REACH``, seen from above."""
    by_token = {sample.token: sample for sample in found}
    pairs: list[tuple[Array, Array, str]] = []
    for sample in truth:
        there = by_token.get(sample.token)
        if there is None or not len(there.boxes):
            continue
        names = np.array(there.names, dtype=object)
        for row, name in zip(sample.boxes, sample.names, strict=True):
            gap = np.linalg.norm(there.boxes[:, :2] - row[:2], axis=1)
            gap = np.where(names == name, gap, np.inf)
            if gap.min() < REACH:
                pairs.append((there.boxes[gap.argmin()], row, name))
    boxes = [np.array([pair[side] for pair in pairs]).reshape(-1, 9) for side in (0, 1)]
    return Pairs(boxes[0], boxes[1], tuple(pair[2] for pair in pairs))


def judge_pairs(pairs: Pairs, where: str, written: tuple[str, ...] = NAMES) -> Iterable[Finding]:
    """Sizes, headings and heights of matched detections against their objects."""
    if len(pairs) < ENOUGH:
        return
    numbers = pairs.found[:, [3 + NAMES.index(word) for word in written]]
    sizes = compare_sizes(numbers, pairs.truth[:, 3:6], written)
    yield from size_findings(sizes, where)
    long = np.isin(np.array(pairs.names, dtype=object), ELONGATED)
    headings = judge_headings(pairs.found[long, 6], pairs.truth[long, 6])
    if headings.turned:
        yield Finding(
            "error", "yaw", where,
            f"headings look like {headings.reading} against the annotations: {headings.evidence}",
            OURS,
        )  # fmt: skip
    moving = (speeds(pairs.found) > MOVING) & (speeds(pairs.truth) > MOVING)
    ways = judge_headings(travel(pairs.found[moving, 7:9]), travel(pairs.truth[moving, 7:9]))
    if ways.turned and not headings.turned:
        yield Finding(
            "error", "velocity", where,
            f"velocities look turned, like {ways.reading}: {ways.evidence}",
            "velocities are in the frame of the boxes, m/s along its x and y axes",
        )  # fmt: skip
    lifted = (pairs.found[:, 2] - pairs.truth[:, 2]) / np.maximum(pairs.truth[:, 5], 1e-3)
    if abs(np.median(lifted)) > BOTTOM:
        yield Finding(
            "error", "box-height", where,
            f"centres lie {np.median(lifted):+.2f} of the height (median of {len(pairs)}) beside "
            "those of the annotations",
            "z is that of the centre; -0.5 is the middle of the lower face (mmdet3d's tensors)",
        )  # fmt: skip
    if not sizes.swapped and not headings.turned:
        yield Finding(
            "note", "box-convention", where,
            f"{len(pairs)} boxes lie at an annotated object and share its convention; "
            + (headings.evidence if headings.count else sizes.evidence),
        )  # fmt: skip


def speeds(boxes: Array) -> Array:
    """Speeds (N,) of boxes (N, 9); 0 where they are unknown."""
    return np.linalg.norm(np.nan_to_num(boxes[:, 7:9]), axis=1)
