"""Which detection found which object: the nuScenes detection task's matching, frame by frame.

As the devkit does (nuscenes.eval.detection.algo.accumulate): class by class, detections by falling
score take the nearest object that is still free, if its centre is nearer than a distance on the
ground. A detection's match depends on better ones only, so a score threshold cannot change it.
Boxes beyond the range of their class are not judged. One thing is left out: the devkit also drops
bicycles and motorcycles inside bicycle racks, which a result file does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from det3d.results.format import Category, Frame, Objects
from det3d.results.geometry import Array, invert_transform, transform_points

DISTANCES = (0.5, 1.0, 2.0, 4.0)  # metres, the thresholds that the task's AP averages over


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of N detections and T objects of one frame.

    truth (N,): row of the object found, -1 for none; detection (T,): row of the detection that
    found it, -1 for none; judged_detections (N,), judged_truth (T,) bool: within range.
    """

    truth: Array
    detection: Array
    judged_detections: Array
    judged_truth: Array


def match_frame(frame: Frame, classes: Sequence[Category], distance: float) -> Matches:
    """Match the detections of a frame with its ground truth at ``distance`` metres."""
    found = frame.detections or no_objects()
    truth = frame.ground_truth or no_objects()
    judged = [is_judged(objects, frame, classes) for objects in (found, truth)]
    distances = ground_distances(found, truth, frame)
    truth_of = np.full(len(found), -1)
    detection_of = np.full(len(truth), -1)
    order = range(len(found)) if found.scores is None else np.argsort(-found.scores, kind="stable")
    for row in order:
        if not judged[0][row]:
            continue
        free = judged[1] & (detection_of < 0) & (truth.labels == found.labels[row])
        candidates = np.where(free, distances[row], np.inf)
        nearest = int(candidates.argmin()) if len(truth) else -1
        if nearest >= 0 and candidates[nearest] < distance:
            truth_of[row], detection_of[nearest] = nearest, row
    return Matches(truth_of, detection_of, judged[0], judged[1])


def ground_distances(found: Objects, truth: Objects, frame: Frame) -> Array:
    """Metres (N, T) between centres, seen from above in the global frame."""
    centres = [
        transform_points(frame.global_from_ref, objects.boxes[:, :3])[:, :2]
        for objects in (found, truth)
    ]
    return np.linalg.norm(centres[0][:, None] - centres[1][None], axis=-1)


def is_judged(objects: Objects, frame: Frame, classes: Sequence[Category]) -> Array:
    """Tell which objects (N,) lie within the range of their class around the ego vehicle."""
    ranges = np.array([np.inf if c.range is None else c.range for c in classes])
    global_from_ego = frame.global_from_ref @ invert_transform(frame.ego_from_ref)
    centres = transform_points(frame.global_from_ref, objects.boxes[:, :3])
    distance = np.linalg.norm(centres[:, :2] - global_from_ego[:2, 3], axis=-1)
    return distance < ranges[objects.labels]


def no_objects() -> Objects:
    """Nothing, with scores."""
    return Objects(np.zeros((0, 9)), np.zeros(0, dtype=np.int64), np.zeros(0))
