import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from det3d.results.format import Results, is_results, read_results, write_results
from tests.helpers.result_frames import CLASSES, car, make_frame, make_objects, write_result_file


def test_what_is_written_is_read(tmp_path: Path) -> None:
    unknown = make_objects([*car(1, 2)[:7], np.nan, np.nan])
    tracked = replace(make_objects(car(1, 2), scores=[0.5]), tracks=("7",), attributes=("parked",))
    frames = (make_frame("a"), make_frame("b", 3, ground_truth=unknown, detections=tracked))
    write_results(
        tmp_path / "x" / "r.json", Results(CLASSES, frames, tmp_path / "images", 1.25, "s")
    )
    found = read_results(tmp_path / "x" / "r.json")
    assert found.classes == CLASSES
    assert (found.forward, found.source) == (1.25, "s")
    assert found.image_root.resolve() == (tmp_path / "images").resolve()
    for wrote, read in zip(frames, found.frames, strict=True):
        assert (read.token, read.scene, read.time) == (wrote.token, wrote.scene, wrote.time)
        np.testing.assert_allclose(read.global_from_ref, wrote.global_from_ref, atol=1e-9)
        for name in ("detections", "ground_truth"):
            mine, other = getattr(wrote, name), getattr(read, name)
            np.testing.assert_allclose(other.boxes, mine.boxes, atol=6e-5)
            assert other.labels.tolist() == mine.labels.tolist()
        for mine, other in zip(wrote.cameras, read.cameras, strict=True):
            assert (other.name, other.image, other.width) == (mine.name, mine.image, mine.width)
            np.testing.assert_allclose(other.camera_from_ref, mine.camera_from_ref, atol=1e-8)
    assert found.frames[1].detections.tracks == ("7",)
    assert found.frames[1].detections.attributes == ("parked",)
    assert found.frames[1].ground_truth.scores is None


def test_detections_are_read_best_first(tmp_path: Path) -> None:
    shuffled = make_objects(car(1, 0), car(2, 0), car(3, 0), scores=[0.1, 0.9, 0.4])
    path = write_result_file(tmp_path, make_frame(detections=shuffled))
    found = read_results(path).frames[0].detections
    assert found.scores.tolist() == [0.9, 0.4, 0.1]
    assert found.boxes[:, 0].tolist() == [2, 3, 1]


def test_a_frame_with_six_cameras_takes_a_few_kilobytes(tmp_path: Path) -> None:
    rows = [car(i % 40, i // 4) for i in range(60)]
    path = write_result_file(
        tmp_path,
        make_frame(detections=make_objects(*rows, scores=np.linspace(0.9, 0.1, 60))),
    )
    assert path.stat().st_size < 9000


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("labels", [0, 0, 3], r"labels must be in \[0, 3\)"),
        ("labels", [0, 0], r"boxes must have shape \(2, 9\), got \(3, 9\)"),
        ("boxes", [[0] * 8] * 3, r"boxes must have shape \(3, 9\)"),
        ("boxes", [[None] * 9] * 3, "only velocities may be unknown"),
        ("scores", [1.0], r"scores must have shape \(3,\), got \(1,\)"),
        ("tracks", ["a"], "expected 3 tracks, got 1"),
    ],
)  # fmt: skip
def test_wrong_objects_are_named(tmp_path: Path, key: str, value: object, says: str) -> None:
    path = write_result_file(tmp_path, make_frame("token7"))
    content = json.loads(path.read_text())
    content["frames"][0]["detections"][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"frame token7, detections: {says}"):
        read_results(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "other"}, 'expected "format": "multicamera-results"'),
        ({"format": "x", "results": {}}, "converted by tools/convert_results.py"),
        ({"version": 2}, "has version 2, expected 1"),
        ({"frames": []}, "has no frames"),
        ({"frames": [{}]}, "lacks the key 'token'"),
        ({"frames": [5]}, "results.json: "),
        ({"frames": [{"token": 5}]}, "a frame: token must be a text, got 5"),
        ({"frames": [{"token": "t", "time": None}]}, "frame t: time must be a number of seconds"),
        ({"classes": [{"name": "car", "range": "x"}]}, "class car: range must be metres or null"),
        ({"image_root": 5}, "image_root must be a text"),
    ],
)
def test_files_that_are_no_results_are_named(tmp_path: Path, change: dict, says: str) -> None:
    path = write_result_file(tmp_path, make_frame())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=says):
        read_results(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": 0}, "width and height must be pixels, got 0 and 54"),
        ({"width": 10**9}, "width and height must be pixels"),
        ({"width": 1e400}, "infinity"),
        ({"image": None}, "image must be a text, got None"),
        ({"intrinsics": [[None] * 3] * 3}, "intrinsics has a number that is not finite"),
    ],
)
def test_wrong_cameras_are_named(tmp_path: Path, changes: dict, says: str) -> None:
    path = write_result_file(tmp_path, make_frame())
    content = json.loads(path.read_text())
    content["frames"][0]["cameras"][0].update(changes)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=says):
        read_results(path)


def test_an_unknown_lens_is_refused(tmp_path: Path) -> None:
    path = write_result_file(tmp_path, make_frame())
    path.write_text(path.read_text().replace('"pinhole"', '"mirror"', 1))
    with pytest.raises(
        ValueError, match="camera camera 0: lens must be one of pinhole, got 'mirror'"
    ):
        read_results(path)


def test_a_result_file_is_known_by_its_start(tmp_path: Path) -> None:
    assert is_results(write_result_file(tmp_path, make_frame()))
    (tmp_path / "other.json").write_text('{"meta": {}, "results": {}}')
    assert not is_results(tmp_path / "other.json")


def test_reading_and_writing_need_neither_torch_nor_the_devkit() -> None:
    code = (
        "import sys, det3d.results.format, det3d.results.nuscenes, det3d.results.matching;"
        "print([m for m in ('torch', 'nuscenes', 'scipy', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
