"""What goes wrong, class by class: the kinds of false positives, and what was missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from det3d.results.format import Category, Frame, Results
from det3d.results.geometry import Array
from det3d.results.matching import ground_distances, match_frame, no_objects

KINDS = ("found", "duplicate", "poorly placed", "wrong class", "background")
FAR = 2.0  # a poorly placed box is within so many times the matching distance


@dataclass(frozen=True, eq=False)
class Breakdown:
    """Counts by class.

    detections (K, kinds): judged detections by ``KINDS``; objects (K,): judged objects; missed
    (K,): those of them that no detection found.
    """

    detections: Array
    objects: Array
    missed: Array


def break_down(results: Results, *, distance: float = 2.0, score: float = 0.3) -> Breakdown:
    """Sort the detections of at least ``score`` by what they are.

    A true positive is found; the others are, by the first that fits: a duplicate (an object of the
    class within ``distance`` was taken by a better box), poorly placed (an object of the class
    within twice the distance), wrong class (another class within ``distance``), background.
    """
    count = len(results.classes)
    kinds = np.zeros((count, len(KINDS)), dtype=np.int64)
    objects, missed = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for frame in results.frames:
        frame = above(frame, score)
        matches = match_frame(frame, results.classes, distance)
        truth = frame.ground_truth or no_objects()
        np.add.at(objects, truth.labels[matches.judged_truth], 1)
        np.add.at(missed, truth.labels[matches.judged_truth & (matches.detection < 0)], 1)
        found = frame.detections or no_objects()
        judged = matches.judged_detections
        kind = kinds_of(frame, results.classes, distance)
        np.add.at(kinds, (found.labels[judged], kind[judged]), 1)
    return Breakdown(kinds, objects, missed)


def above(frame: Frame, score: float) -> Frame:
    """The frame with detections of at least ``score`` only."""
    found = frame.detections
    if found is None or found.scores is None:
        return frame
    return replace(frame, detections=found.select(found.scores >= score))


def kinds_of(frame: Frame, classes: Sequence[Category], distance: float) -> Array:
    """Rows of ``KINDS`` (N,) for the detections of one frame."""
    found, truth = frame.detections or no_objects(), frame.ground_truth or no_objects()
    matches = match_frame(frame, classes, distance)
    if not len(truth):
        return np.full(len(found), KINDS.index("background"))
    apart = ground_distances(found, truth, frame)
    same = found.labels[:, None] == truth.labels[None]
    nearest_same = np.where(same, apart, np.inf).min(1)
    nearest_other = np.where(same, np.inf, apart).min(1)
    return np.select(
        [
            matches.truth >= 0,
            nearest_same < distance,
            nearest_same < FAR * distance,
            nearest_other < distance,
        ],
        range(len(KINDS) - 1),
        default=len(KINDS) - 1,
    )
