import json
from pathlib import Path

import numpy as np
import pytest

from detr2d.data.coco_files import CocoFile, read_coco
from detr2d.data.repeats import repeated_rows


@pytest.fixture
def file(tmp_path: Path) -> CocoFile:
    """Sixteen images, all with a common object; the first has a rare one, the second a crowd."""
    shown = [(image, 1, 0) for image in range(16)] + [(0, 2, 0), (1, 2, 1)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({
        "images": [
            {"id": k, "file_name": f"{k}.jpg", "height": 8, "width": 8} for k in range(16)
        ],
        "categories": [{"id": 1, "name": "common"}, {"id": 2, "name": "rare"}],
        "annotations": [
            {"id": k, "image_id": image, "category_id": category, "bbox": [0, 0, 4, 4],
             "area": 16, "iscrowd": crowd}
            for k, (image, category, crowd) in enumerate(shown, start=1)
        ],
    }))  # fmt: skip
    return read_coco(path)


def counts(rows: np.ndarray) -> list[int]:
    return np.bincount(rows, minlength=16).tolist()


def test_without_a_threshold_every_row_is_there_once(file: CocoFile) -> None:
    assert repeated_rows(file, np.arange(16), 0.0, seed=0).tolist() == list(range(16))


def test_a_rare_class_is_repeated_by_the_root_of_its_rarity(file: CocoFile) -> None:
    # One image in 16 shows the rare class: sqrt(0.25 * 16) = 2 copies of it; crowds do not count.
    assert counts(repeated_rows(file, np.arange(16), 0.25, seed=0)) == [2] + [1] * 15


def test_fractions_are_drawn_with_their_probability(file: CocoFile) -> None:
    # sqrt(2.25) = 1.5 for the rare class at 2.25 / 16, below which no class is common enough.
    drawn = [counts(repeated_rows(file, np.arange(16), 2.25 / 16, seed=k))[0] for k in range(400)]
    assert set(drawn) == {1, 2} and abs(np.mean(drawn) - 1.5) < 0.1


def test_frequencies_are_those_of_the_rows_that_are_asked_for(file: CocoFile) -> None:
    # Of the first four rows one shows the rare class: sqrt(1 * 4) = 2.
    assert counts(repeated_rows(file, np.arange(4), 1.0, seed=0))[:5] == [2, 1, 1, 1, 0]


def test_the_seed_alone_decides(file: CocoFile) -> None:
    first, again = (repeated_rows(file, np.arange(16), 0.14, seed=5) for _ in range(2))
    assert first.tolist() == again.tolist()


def test_no_rows_stay_no_rows(file: CocoFile) -> None:
    assert len(repeated_rows(file, np.arange(0), 0.5, seed=0)) == 0
