"""Our 3D detectors against the official numbers; spoiled numbers against our comparison."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from det3d.parity.families import check_directory

pytestmark = pytest.mark.parity

VARIANTS = [
    "detr3d_res101_gridmask", "detr3d_vovnet", "petr_r50dcn_gridmask_c5", "petr_r50dcn_gridmask_p4",
    "petr_vovnet_gridmask_p4_800x320", "petrv2_vovnet_gridmask_p4_800x320",
    "petrv2_vovnet_gridmask_p4_800x320_dn",
]  # fmt: skip


def failures(folder: Path) -> dict[str, str]:
    lines = [line for section in check_directory(folder) for line in section.lines]
    return {line.quantity: line.note for line in lines if line.verdict == "FAIL"}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_published_variants_give_the_official_numbers(parity: Path, variant: str) -> None:
    assert failures(parity / variant) == {}


def test_single_operations_give_the_official_numbers(parity: Path) -> None:
    lines = [line for section in check_directory(parity / "ops3d") for line in section.lines]
    assert [str(line) for line in lines if line.verdict == "FAIL"] == []
    assert sum(line.verdict == "ok" for line in lines) >= 90


def test_2d_directories_are_served_too(parity: Path) -> None:
    assert failures(parity / "ops") == {}


def test_broken_and_missing_cases_fail(parity: Path, tmp_path: Path) -> None:
    variant = VARIANTS[0]
    shutil.copy(parity / "fill.py", tmp_path / "fill.py")
    folder = tmp_path / variant
    folder.mkdir()
    for name in ("manifest.json", "config.json"):
        (folder / name).write_bytes((parity / variant / name).read_bytes())
    assert "no case" in failures(folder)[str(folder)]
    np.savez(folder / "case_a.npz", salt=3)
    assert failures(folder)


def test_spoiled_settings_fail(parity: Path, tmp_path: Path) -> None:
    variant = VARIANTS[0]
    shutil.copy(parity / "fill.py", tmp_path / "fill.py")
    folder = tmp_path / variant
    folder.mkdir()
    (folder / "manifest.json").write_bytes((parity / variant / "manifest.json").read_bytes())
    config = json.loads((parity / variant / "config.json").read_text())
    config["loss"]["cls"]["weight"], config["num_parameters"] = 1.0, 3
    config["match"]["bbox"]["weight"], config["new"] = 5.0, 1
    (folder / "config.json").write_text(json.dumps(config))
    settings = next(check_directory(folder))
    failed = {line.quantity for line in settings.lines if line.verdict == "FAIL"}
    assert failed == {"loss/cls/weight", "num_parameters", "match/bbox/weight", "new"}
