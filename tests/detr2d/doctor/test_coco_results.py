"""Result files of COCO: form, ids and the format of boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detr2d.doctor.coco import read_content
from detr2d.doctor.coco_results import examine_coco_results
from detr2d.doctor.findings import Finding
from tests.helpers.findings import alarms, edit, kinds

SIZE = 400


@pytest.fixture
def results(tmp_path: Path) -> Path:
    boxes = [[20.0 + 30 * i, 150.0 + 9 * i, 60.0 + 4 * i, 50.0] for i in range(8)]
    truth = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": SIZE, "width": SIZE} for i in (1, 2)
        ],
        "categories": [{"id": 5, "name": "dog"}, {"id": 6, "name": "cat"}],
        "annotations": [
            {"id": i + 1, "image_id": 1 + i % 2, "category_id": 5 + i // 4, "bbox": box}
            for i, box in enumerate(boxes)
        ],
    }
    found = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": a["bbox"],
            "score": 0.9 - 0.1 * i,
        }
        for i, a in enumerate(truth["annotations"])
    ]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    return tmp_path / "found.json"


def examine(results: Path, *, alone: bool = False) -> list[Finding]:
    truth = None if alone else read_content(results.with_name("truth.json"))[0]
    return examine_coco_results(results, truth)


def every(**changes: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def plant(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row.update({key: change(row[key]) for key, change in changes.items()})

    return plant


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (every(bbox=lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]), "box-format"),
        (every(bbox=lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]]), "box-format"),
        (every(bbox=lambda b: [value / SIZE for value in b]), "box-format"),
        (every(category_id=lambda c: c - 5), "unknown-category"),
        (every(image_id=lambda i: i - 1), "unknown-image"),
        (every(image_id=str), "malformed-row"),
        (every(score=lambda s: 100 * s), "score-range"),
        (every(score=lambda s: float("nan")), "malformed-row"),
        (lambda rows: rows.append(rows[0]), "duplicate-object"),
        (lambda rows: rows[0].pop("bbox") and None, "malformed-row"),
        (lambda rows: rows[0].update(bbox=[50, 50, -10, 10]), "negative-box"),
        (lambda rows: rows.clear(), "no-boxes"),
        (lambda rows: {"results": rows}, "no-results"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(change: Callable[[Any], Any], kind: str, results: Path) -> None:
    edit(results, change)
    assert alarms(examine(results)) == {kind}


def test_good_results_have_no_alarm_and_their_format_is_told(results: Path) -> None:
    assert alarms(examine(results)) == set()
    said = [f.message for f in examine(results) if f.kind == "box-convention"]
    assert "8 read as x, y, width, height" in said[0]


def test_labels_instead_of_ids_are_called_so(results: Path) -> None:
    edit(results, every(category_id=lambda c: c - 5))
    said = [f for f in examine(results) if f.kind == "unknown-category"]
    assert "look like labels 0, 1" in said[0].advice


def test_without_annotations_the_file_alone_is_judged(results: Path) -> None:
    assert alarms(examine(results, alone=True)) == set()
    assert "no-annotations" in kinds(examine(results, alone=True))
