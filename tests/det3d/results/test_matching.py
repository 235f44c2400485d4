from dataclasses import replace

import numpy as np
import pytest
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection.algo import accumulate
from nuscenes.eval.detection.data_classes import DetectionBox

from det3d.data.nuscenes_index import DETECTION_CLASSES
from det3d.results.format import Frame, Objects
from det3d.results.matching import DISTANCES, match_frame
from det3d.results.nuscenes import CATEGORIES, to_official
from tests.helpers.result_frames import CLASSES, car, make_frame, make_objects


def test_detections_take_the_nearest_free_object_best_first() -> None:
    frame = make_frame(
        ground_truth=make_objects(car(10, 0), car(13, 0)),
        detections=make_objects(car(11, 0), car(10.1, 0), car(9, 0), scores=[0.9, 0.8, 0.7]),
    )
    found = match_frame(frame, CLASSES, 4.0)
    assert found.truth.tolist() == [0, 1, -1]
    assert found.detection.tolist() == [0, 1]
    assert match_frame(frame, CLASSES, 2.0).truth.tolist() == [0, -1, -1]


def test_classes_are_matched_apart_and_the_range_bounds_what_is_judged() -> None:
    frame = make_frame(
        ground_truth=make_objects(car(10, 0), car(60, 0), labels=[1, 0]),
        detections=make_objects(car(10, 0), car(60, 0), labels=[0, 0], scores=[0.5, 0.4]),
    )
    found = match_frame(frame, CLASSES, 2.0)
    assert found.truth.tolist() == [-1, -1]
    assert found.judged_detections.tolist() == [True, False]
    assert found.judged_truth.tolist() == [True, False]


@pytest.mark.parametrize("missing", ["detections", "ground_truth"])
def test_one_side_alone_matches_nothing(missing: str) -> None:
    found = match_frame(make_frame(**{missing: None}), CLASSES, 2.0)
    assert (found.truth < 0).all()
    assert (found.detection < 0).all()
    assert len(found.truth) + len(found.detection) == 3


def random_frame(distance: float) -> Frame:
    """A crowd in which many boxes compete within ``distance``."""
    random = np.random.default_rng(round(10 * distance))

    def crowd(count: int) -> np.ndarray:
        rows = np.array([car(0, 0)] * count)
        rows[:, :2] = random.normal(0, 2 + 4 * distance, (count, 2))
        return rows

    truth = Objects(crowd(80), random.integers(0, 3, 80))
    scores = np.sort(random.permutation(120) / 120)[::-1]
    return make_frame(detections=Objects(crowd(120), random.integers(0, 3, 120), scores),
                      ground_truth=truth)  # fmt: skip


def official(objects: Objects, frame: Frame) -> EvalBoxes:
    origin = (frame.global_from_ref @ np.linalg.inv(frame.ego_from_ref))[:3, 3]
    scored = (
        objects if objects.scores is not None else replace(objects, scores=np.ones(len(objects)))
    )
    boxes = EvalBoxes()
    for box in to_official(scored, frame.token, frame.global_from_ref):
        offset = tuple(np.array(box["translation"]) - origin)
        boxes.add_boxes(frame.token, [DetectionBox.deserialize(box | {"ego_translation": offset})])
    return boxes


@pytest.mark.parametrize("distance", DISTANCES)
def test_true_positives_are_those_of_the_devkit(distance: float) -> None:
    frame = random_frame(distance)
    found = match_frame(frame, CATEGORIES, distance)
    truth, detections = (official(o, frame) for o in (frame.ground_truth, frame.detections))
    for boxes in (truth, detections):
        kept = [
            box for box in boxes[frame.token]
            if box.ego_dist < {c.name: c.range for c in CATEGORIES}[box.detection_name]
        ]  # fmt: skip
        boxes.boxes[frame.token] = kept
    for label in range(3):
        name = DETECTION_CLASSES[label]
        metric = accumulate(truth, detections, name, center_distance, distance)
        rows = frame.detections.labels == label
        hits = int((found.truth[rows] >= 0).sum())
        objects = int((found.judged_truth & (frame.ground_truth.labels == label)).sum())
        assert hits >= 2
        assert metric.recall[-1] == 1 or metric.max_recall == pytest.approx(
            hits / objects, abs=0.01
        )
        judged = found.judged_detections[rows]
        precision = np.cumsum(found.truth[rows][judged] >= 0) / np.arange(1, judged.sum() + 1)
        recall = np.cumsum(found.truth[rows][judged] >= 0) / objects
        expected = np.interp(np.linspace(0, 1, 101), recall, precision, right=0)
        np.testing.assert_allclose(metric.precision, expected, atol=1e-12)


def test_a_score_threshold_changes_no_match_above_it() -> None:
    frame = random_frame(2.0)
    whole = match_frame(frame, CLASSES, 2.0)
    cut = replace(frame, detections=frame.detections.select(np.arange(50)))
    assert match_frame(cut, CLASSES, 2.0).truth.tolist() == whole.truth[:50].tolist()
