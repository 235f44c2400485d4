from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from det3d.data.nuscenes import NuScenesConfig
from det3d.evaluation.nuscenes import ground_truth_detections
from detr2d.curves import panel_order, read_series, run_names, smooth
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes
from tools import plot


def write_log(folder: Path, scale: float = 1.0, count: int = 50) -> Path:
    folder.mkdir()
    records = [
        {"step": s, "epoch": s / 10, "lr": 1e-4, "loss": scale / s, "grad_norm": 2.0,
         "data_time": 0.1, "step_time": 0.2, "losses": {"class": 0.5 * scale / s}}
        for s in range(1, count)
    ]  # fmt: skip
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["plot.py", *arguments])
    plot.main()


def test_several_runs_are_drawn_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write_log(tmp_path / "a"), write_log(tmp_path / "b", 2.0)
    pictures = []
    for runs in ([str(first)], [str(first), str(second / "log.jsonl")]):
        path = tmp_path / f"{len(runs)}.png"
        run(monkeypatch, *runs, "-o", str(path))
        pictures.append(np.asarray(Image.open(path).convert("RGB")))
    assert all(picture.std() > 5 for picture in pictures)
    assert pictures[0].shape != pictures[1].shape or (pictures[0] != pictures[1]).any()


def test_series_are_named_and_ordered(tmp_path: Path) -> None:
    series = read_series(write_log(tmp_path / "a"))
    assert panel_order({"a": series}) == ["loss", "losses/class", "lr", "grad_norm"]
    assert series["loss"][0][:2] == [1, 2]
    assert series["loss"][1][:2] == [1.0, 0.5]


def test_figures_of_evaluations_come_first_without_those_that_are_not_defined(
    tmp_path: Path,
) -> None:
    folder = write_log(tmp_path / "a")
    with (folder / "log.jsonl").open("a") as file:
        for step, ap in ((24, 0.1), (49, 0.3)):
            figures = {"AP": ap, "APl": -1.0}
            file.write("\n" + json.dumps({"step": step, "epoch": 1, "metrics": figures}))
    series = read_series(folder)
    assert panel_order({"a": series})[0] == "metrics/AP"
    assert series["metrics/AP"] == ([24, 49], [0.1, 0.3])
    assert "metrics/APl" not in series


def test_a_running_mean_keeps_constants_and_length() -> None:
    assert smooth([3.0] * 100).tolist() == [3.0] * 100
    assert len(smooth(list(range(7)))) == 7
    np.testing.assert_allclose(smooth(np.arange(100.0))[50], 50)


def test_runs_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    assert run_names([tmp_path / "a" / "log.jsonl", tmp_path / "b" / "log.jsonl"]) == ["a", "b"]


def test_an_evaluation_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = NuScenesConfig(
        root=write_tiny_nuscenes(tmp_path / "db"), version="v1.0-mini",
        evaluation_split="mini_val", image_size=(8, 8), index_dir=tmp_path / "index",
    )  # fmt: skip
    evaluator = data.evaluator(tmp_path / "evaluation")
    results: dict = {}
    for scene in data.evaluation_set():
        results |= evaluator.format(scene, ground_truth_detections(scene))
    evaluator.summarize(results)
    run(monkeypatch, str(tmp_path / "evaluation"), "-o", str(tmp_path / "picture.png"))
    assert np.asarray(Image.open(tmp_path / "picture.png").convert("RGB")).std() > 5


def test_a_missing_log_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, str(tmp_path))
    assert capsys.readouterr().err == f"error: no training log at {tmp_path}/log.jsonl\n"
