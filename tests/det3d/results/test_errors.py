import numpy as np

from det3d.results.errors import KINDS, break_down, kinds_of
from det3d.results.format import Results
from tests.helpers.result_frames import CLASSES, car, make_frame, make_objects


def test_every_kind_of_detection_is_told_by_hand() -> None:
    frame = make_frame(
        ground_truth=make_objects(car(10, 0), car(0, 10), car(-20, 0), labels=[0, 1, 0]),
        detections=make_objects(
            car(10.5, 0), car(10, 1), car(-23, 0), car(0, 10.5), car(25, 25),
            labels=[0, 0, 0, 0, 0], scores=[0.9, 0.8, 0.7, 0.6, 0.5],
        ),
    )  # fmt: skip
    assert [KINDS[kind] for kind in kinds_of(frame, CLASSES, 2.0)] == list(KINDS)


def test_counts_are_those_of_judged_boxes_above_the_score(tmp_path) -> None:
    frame = make_frame(
        ground_truth=make_objects(car(10, 0), car(0, 10), car(80, 0), labels=[0, 0, 0]),
        detections=make_objects(car(10, 0), car(0, 10), car(80, 0), scores=[0.9, 0.1, 0.8]),
    )
    counts = break_down(Results(CLASSES, (frame, frame), tmp_path), score=0.3)
    assert counts.objects.tolist() == [4, 0, 0]
    assert counts.missed.tolist() == [2, 0, 0]
    assert counts.detections[0].tolist() == [2, 0, 0, 0, 0]
    assert counts.detections[1:].sum() == 0


def test_frames_without_objects_hold_background_only() -> None:
    kinds = kinds_of(make_frame(ground_truth=None), CLASSES, 2.0)
    assert np.array_equal(kinds, np.full(3, KINDS.index("background")))
