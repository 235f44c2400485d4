import sys
from pathlib import Path

import numpy as np
import pytest

from det3d.results.format import read_results
from det3d.viewer.mcap import write_mcap
from tests.helpers.result_frames import make_frame, write_result_file


def result_file(folder: Path) -> Path:
    path = write_result_file(folder, make_frame("a", lidar="points.bin"), make_frame("b", time=2.0))
    np.zeros((100, 5), dtype=np.float32).tofile(folder / "images" / "points.bin")
    return path


def test_every_topic_is_in_the_file(tmp_path: Path) -> None:
    pytest.importorskip("foxglove", reason="needs the extra viz (foxglove-sdk)")
    path = tmp_path / "out.mcap"
    size = write_mcap(read_results(result_file(tmp_path)), path, camera_width=48, min_score=0.0)
    content = path.read_bytes()
    assert content.startswith(b"\x89MCAP0")
    assert size == len(content) > 1000
    for topic in (b"/tf", b"/lidar", b"/detections", b"/ground_truth", b"/cameras/camera 60/image"):
        assert topic in content


def test_without_the_sdk_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "foxglove", None)
    with pytest.raises(ImportError, match=r"pip install 'detr2d-det3d\[viz\]'"):
        write_mcap(
            read_results(result_file(tmp_path)), tmp_path / "x", camera_width=48, min_score=0.0
        )
