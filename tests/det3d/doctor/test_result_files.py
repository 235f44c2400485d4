"""Result files of ours: rigs, images and boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from det3d.doctor.result_files import examine_results
from tests.helpers.findings import alarms, edit
from tests.helpers.result_frames import make_frame, make_objects, write_result_file

BOXES = [[9.0 * i, 4.0, 0.0, 4.5, 1.9, 1.6, 0.3 * i, 3.0, 0.5] for i in range(1, 7)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = make_objects(*BOXES, scores=np.linspace(0.9, 0.4, 6))
    return write_result_file(
        tmp_path, make_frame(detections=found, ground_truth=make_objects(*BOXES))
    )


def boxes(change: Any) -> Any:
    def plant(content: dict[str, Any]) -> None:
        objects = content["frames"][0]["detections"]
        objects["boxes"] = change(np.array(objects["boxes"])).tolist()

    return plant


def camera(**changes: Any) -> Any:
    return lambda content: content["frames"][0]["cameras"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (boxes(lambda b: b[:, [0, 1, 2, 4, 3, 5, 6, 7, 8]]), "size-order"),
        (boxes(lambda b: b + np.eye(9)[6] * np.pi / 2), "yaw"),
        (boxes(lambda b: b * [1, 1, 1, 1, 1, 1, -1, 1, 1]), "yaw"),
        (boxes(lambda b: b - np.eye(9)[2] * 0.8), "box-height"),
        (boxes(lambda b: b * [1, 1, 1, 3, 3, 3, 1, 1, 1]), "size-unit"),
        (camera(camera_from_ref=(2 * np.eye(4)).tolist()), "no-rotation"),
        (camera(intrinsics=[[1, 0, 900], [0, 1, 500], [0, 0, 1]]), "intrinsics-size"),
        (camera(image="none.jpg"), "image-missing"),
        (camera(image="../../etc/passwd"), "path-escape"),
        (camera(width=1000, height=540), "intrinsics-size"),
        (lambda c: c["frames"].append(c["frames"][0]), "token-twice"),
        (lambda c: c.update(version=9), "refused"),
        (lambda c: c["frames"][0].pop("token") and None, "refused"),
    ],
)
def test_a_planted_fault_is_found(change: Any, kind: str, path: Path) -> None:
    edit(path, change)
    assert kind in alarms(examine_results(path))


def test_good_results_have_no_alarm(path: Path) -> None:
    for number, image in enumerate(sorted((path.parent / "images").iterdir())):
        noise = np.random.default_rng(number).integers(0, 255, (54, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(image)
    assert alarms(examine_results(path)) == set()
