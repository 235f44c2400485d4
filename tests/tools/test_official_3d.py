"""An official 3D checkpoint from its file to a judged submission, on the real frame."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from detr2d.parity.fixtures import read_recipe

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT / "../shared/real/nuscenes_frame"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.parity,
    pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real/nuscenes_frame"),
]


def run_tool(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    tool = str(ROOT / f"tools/{name}.py")
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    runpy.run_path(tool, run_name="__main__")


def test_petr_is_converted_evaluated_and_submitted(
    parity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = json.loads((parity / "petr_r50dcn_gridmask_c5/manifest.json").read_text())
    state = read_recipe(parity / "fill.py")["fill_state_dict"](manifest, 3)
    official, ours = tmp_path / "official.pth", tmp_path / "ours.safetensors"
    torch.save({"meta": {"CLASSES": ("car",), "epoch": 24}, "state_dict": state}, official)
    config = str(ROOT / "configs/det3d/petr_r50_c5.py")
    run_tool(monkeypatch, "convert_checkpoint", config, str(official), str(ours))
    settings = [
        "--data.root", str(REAL), "--data.version", "v1.0-mini",
        "--data.evaluation-split", "mini_train", "--data.index-dir", str(tmp_path / "index"),
        "--train.workers", "0", "--train.precision", "float32",
    ]  # fmt: skip
    results = tmp_path / "evaluation"
    run_tool(monkeypatch, "evaluate", config, str(ours), *settings, "--output-dir", str(results))
    submission = json.loads((results / "results_nusc.json").read_text())
    assert submission["meta"]["use_camera"] and len(submission["results"]) == 1
    (boxes,) = submission["results"].values()
    assert 0 < len(boxes) <= 300
    assert (results / "metrics_summary.json").is_file()
