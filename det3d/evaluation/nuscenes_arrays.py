"""The nuScenes detection metrics on arrays: the devkit's figures in seconds, for looking often.

The definition is the devkit's (detection_cvpr_2019) and tests compare every figure with it. The
devkit stays the judge of published figures; ``data.judge`` chooses.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from det3d.data.nuscenes_index import DETECTION_CLASSES, NuScenesIndex
from det3d.evaluation.nuscenes import (
    ERROR_NAMES,
    SUMMARY_FILE,
    ResultArrays,
    format_table,
    headline,
    result_arrays,
)
from det3d.evaluation.nuscenes_truth import (
    RACK,
    JudgedObjects,
    headings,
    inside,
    open_objects,
)
from det3d.results.nuscenes import ATTRIBUTES, CLASS_RANGES
from det3d.structures import SceneBatch
from detr2d.config import Report
from detr2d.structures import Detections

Array = np.ndarray

THRESHOLDS = (0.5, 1.0, 2.0, 4.0)  # metres between centres, seen from above
ERROR_THRESHOLD = 2.0
STEPS = 101  # recalls from 0 to 1 at which curves are read
FIRST_STEP = 11  # recalls up to 0.1 do not count
LEAST_PRECISION = 0.1
MAP_WEIGHT = 5
UNDEFINED = {  # errors that mean nothing for a class
    "traffic_cone": ("orient_err", "vel_err", "attr_err"),
    "barrier": ("vel_err", "attr_err"),
}
CYCLES = [DETECTION_CLASSES.index(name) for name in ("bicycle", "motorcycle")]
RANGES = np.array([CLASS_RANGES[name] for name in DETECTION_CLASSES], dtype=float)


class ArrayEvaluator:
    """Judges detections of key frames without passing through files and objects.

    ``metrics_summary.json`` in ``output_dir`` has the devkit's form; no submission is written.
    """

    def __init__(self, index: NuScenesIndex, *, root: Path, output_dir: Path) -> None:
        self.index = index
        self.root = root
        self.output_dir = output_dir

    def format(self, batch: SceneBatch, detections: list[Detections]) -> dict[str, ResultArrays]:
        """What is judged of each sample, by its token. Raises ValueError for infinite boxes."""
        return {
            token: result_arrays(self.index, token, found)
            for token, found in zip(batch.tokens, detections, strict=True)
        }

    def summarize(self, results: dict[str, Any]) -> Report:
        """Judge exactly the samples that ``results`` names. Raises ValueError if one is unknown."""
        unknown = [token for token in results if token not in self.index.rows_by_token]
        if unknown or not results:
            raise ValueError(
                f"results name {len(results)} samples, {len(unknown)} of them not in "
                f"{self.index.version} of {self.root}: {', '.join(unknown[:3])}"
            )
        summary, counts = array_metrics(self.index, open_objects(self.index, self.root), results)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / SUMMARY_FILE).write_text(json.dumps(summary, indent=2))
        table = format_table(summary, counts, len(results))
        return Report(metrics=headline(summary), table=f"{table}\n(judged on arrays)")


@dataclass(frozen=True)
class Judged:
    """Results of all samples in one: ``rows`` (P,) are their samples, the rest as in each."""

    rows: Array
    found: ResultArrays

    def select(self, keep: Array) -> Judged:
        """Those chosen by a mask (P,) or by positions."""
        chosen = {name: value[keep] for name, value in vars(self.found).items()}
        return Judged(self.rows[keep], ResultArrays(**chosen))


def array_metrics(
    index: NuScenesIndex, objects: JudgedObjects, results: Mapping[str, ResultArrays]
) -> tuple[dict[str, Any], dict[str, int]]:
    """Summary in the devkit's form, and the number of judged objects by class.

    Samples are taken in the order of ``results``, as the devkit does: it decides between equal
    scores.
    """
    rows = np.array([index.row(token) for token in results], dtype=np.int64)
    racks = objects.select(objects.labels == RACK)
    chosen = np.zeros(len(index), dtype=bool)
    chosen[rows] = True
    truth = objects.select((objects.labels >= 0) & chosen[objects.rows] & (objects.points != 0))
    truth = truth.select(_is_judged(index, truth.rows, truth.centres, truth.labels, racks))
    found = _join(rows, list(results.values()))
    kept = _is_judged(index, found.rows, found.found.centres, found.found.labels, racks)
    found = found.select(kept)
    aps, errors = {}, {}
    for label, name in enumerate(DETECTION_CLASSES):
        own, theirs = found.select(found.found.labels == label), truth.select(truth.labels == label)
        aps[name], errors[name] = class_metrics(name, own, theirs)
    counts = {name: int((truth.labels == i).sum()) for i, name in enumerate(DETECTION_CLASSES)}
    return summarize_classes(aps, errors), counts


def _join(rows: Array, results: Sequence[ResultArrays]) -> Judged:
    joined = {
        name: np.concatenate([vars(result)[name] for result in results])
        for name in ResultArrays.__dataclass_fields__
    }
    return Judged(np.repeat(rows, [len(result) for result in results]), ResultArrays(**joined))


def _is_judged(
    index: NuScenesIndex, rows: Array, centres: Array, labels: Array, racks: JudgedObjects
) -> Array:
    """Whether boxes lie within the range of their class, and cycles outside every rack."""
    away = centres[:, :2] - index.global_from_ego[rows, :2, 3]
    kept = np.sqrt((away**2).sum(axis=1)) < RANGES[labels]
    cycles = np.flatnonzero(np.isin(labels, CYCLES))
    kept[cycles] &= ~inside(rows[cycles], centres[cycles], racks)
    return kept


def class_metrics(
    name: str, found: Judged, truth: JudgedObjects
) -> tuple[dict[float, float], dict[str, float]]:
    """The AP at each threshold and the five true-positive errors of one class."""
    aps, errors = dict.fromkeys(THRESHOLDS, 0.0), dict.fromkeys(ERROR_NAMES, 1.0)
    order = np.lexsort((-np.arange(len(found.rows)), -found.found.scores))  # last of equals first
    found = found.select(order)
    if len(truth) and len(order):
        matches = match_centres(found, truth)
        for threshold, matched in zip(THRESHOLDS, matches, strict=True):
            if (matched >= 0).any():
                curve = _Curve.of(matched >= 0, found.found.scores, len(truth))
                aps[threshold] = curve.average_precision()
                if threshold == ERROR_THRESHOLD:
                    errors = _errors(name, found, truth, matched, curve)
    undefined = dict.fromkeys(UNDEFINED.get(name, ()), float("nan"))
    return aps, errors | undefined


def match_centres(found: Judged, truth: JudgedObjects) -> list[Array]:
    """For each threshold, the object (P,) that each prediction takes, -1 for none.

    Predictions come best first and take the nearest object of their sample that is still free, if
    it is nearer than the threshold. All samples take turns together: round k settles the k-th
    prediction of every sample that has an object within the largest threshold.
    """
    predictions, objects, distances = _near_pairs(found, truth)
    own = found.rows[predictions]
    starts = _first_of_each(predictions)
    rank = _rank_in_group(own[starts])[np.cumsum(starts) - 1]
    by_round = np.argsort(rank, kind="stable")
    bounds = np.searchsorted(rank[by_round], np.arange(rank.max(initial=-1) + 2))
    results = []
    for threshold in THRESHOLDS:
        taken = np.zeros(len(truth), dtype=bool)
        matched = np.full(len(found.rows), -1)
        for low, high in itertools.pairwise(bounds):
            pairs = by_round[low:high]
            pairs = pairs[~taken[objects[pairs]]]
            nearest = pairs[_first_of_each(predictions[pairs])]
            nearest = nearest[distances[nearest] < threshold]
            taken[objects[nearest]] = True
            matched[predictions[nearest]] = objects[nearest]
        results.append(matched)
    return results


def _near_pairs(found: Judged, truth: JudgedObjects) -> tuple[Array, Array, Array]:
    """Pairs of one sample nearer than the largest threshold: prediction, object, distance.

    Ordered by prediction, then distance, then object.
    """
    by_row = np.argsort(truth.rows, kind="stable")
    low = np.searchsorted(truth.rows[by_row], found.rows, "left")
    counts = np.searchsorted(truth.rows[by_row], found.rows, "right") - low
    predictions = np.repeat(np.arange(len(found.rows)), counts)
    ends = np.cumsum(counts)
    within = np.arange(len(predictions)) - np.repeat(ends - counts, counts)
    objects = by_row[np.repeat(low, counts) + within]
    apart = found.found.centres[predictions, :2] - truth.centres[objects, :2]
    distances = np.sqrt((apart**2).sum(axis=1))
    near = np.flatnonzero(distances < THRESHOLDS[-1])
    near = near[np.lexsort((objects[near], distances[near], predictions[near]))]
    return predictions[near], objects[near], distances[near]


def _first_of_each(ordered: Array) -> Array:
    """Mask (N,) of the first of every run of equal values."""
    first = np.ones(len(ordered), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return first


def _rank_in_group(groups: Array) -> Array:
    """How many earlier entries of (N,) are equal to each."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    first = np.searchsorted(ordered, ordered, "left")
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(groups)) - first
    return rank


@dataclass(frozen=True)
class _Curve:
    """Precision (STEPS,) and score (STEPS,) where each recall is reached, 0 beyond the last."""

    precision: Array
    scores: Array

    @staticmethod
    def of(hits: Array, scores: Array, num_objects: int) -> _Curve:
        true = np.cumsum(hits).astype(float)
        recall, steps = true / num_objects, np.linspace(0, 1, STEPS)
        precision = np.interp(steps, recall, true / np.arange(1, len(hits) + 1), right=0)
        return _Curve(precision, np.interp(steps, recall, scores, right=0))

    def average_precision(self) -> float:
        """Mean of the precision above the least one, over the recalls that count."""
        gained = np.maximum(self.precision[FIRST_STEP:] - LEAST_PRECISION, 0)
        return float(gained.mean()) / (1 - LEAST_PRECISION)

    def mean(self, values: Array, scores: Array) -> float:
        """Running mean of the true positives' values, averaged over the recalls that count."""
        last = int(np.flatnonzero(self.scores).max(initial=0))
        if last < FIRST_STEP:
            return 1.0
        running = _running_mean(values)
        at_steps = np.interp(self.scores[::-1], scores[::-1], running[::-1])[::-1]
        return float(at_steps[FIRST_STEP : last + 1].mean())


def _running_mean(values: Array) -> Array:
    """Mean of the known values up to each; all one if none is known, zero before the first."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    counts = np.cumsum(known)
    return np.divide(np.nancumsum(values), counts, out=np.zeros(len(values)), where=counts != 0)


def _errors(
    name: str, found: Judged, truth: JudgedObjects, matched: Array, curve: _Curve
) -> dict[str, float]:
    """The five true-positive errors of one class."""
    hits = np.flatnonzero(matched >= 0)
    ours, theirs = found.select(hits).found, truth.select(matched[hits])
    shared = np.minimum(ours.sizes, theirs.sizes).prod(axis=1)
    volumes = ours.sizes.prod(axis=1) + theirs.sizes.prod(axis=1)
    period = np.pi if name == "barrier" else 2 * np.pi
    turn = headings(theirs.rotations) - headings(ours.rotations)
    turn = (turn + period / 2) % period - period / 2
    moving, resting = (attribute.encode() for attribute in ATTRIBUTES[name])
    wrong = np.where(ours.moving, moving, resting) != theirs.attributes
    values = {
        "trans_err": np.linalg.norm(ours.centres[:, :2] - theirs.centres[:, :2], axis=1),
        "scale_err": 1 - shared / (volumes - shared),
        "orient_err": np.abs(turn),
        "vel_err": np.linalg.norm(ours.velocities - theirs.velocities, axis=1),
        "attr_err": np.where(theirs.attributes == b"", np.nan, wrong.astype(float)),
    }
    return {key: curve.mean(value, ours.scores) for key, value in values.items()}


def summarize_classes(
    aps: Mapping[str, Mapping[float, float]], errors: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The devkit's summary from the figures of the classes."""
    mean_aps = {name: float(np.mean(list(values.values()))) for name, values in aps.items()}
    mean_ap = float(np.mean(list(mean_aps.values())))
    means = {
        key: float(np.nanmean([errors[name][key] for name in DETECTION_CLASSES]))
        for key in ERROR_NAMES
    }
    scores = {key: max(0.0, 1 - error) for key, error in means.items()}
    return {
        "label_aps": {name: dict(values) for name, values in aps.items()},
        "mean_dist_aps": mean_aps,
        "mean_ap": mean_ap,
        "label_tp_errors": {name: dict(values) for name, values in errors.items()},
        "tp_errors": means,
        "tp_scores": scores,
        "nd_score": (MAP_WEIGHT * mean_ap + sum(scores.values())) / (MAP_WEIGHT + len(scores)),
    }
