"""Official checkpoints of both worlds are recognised by their names and shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from detr2d.doctor.checkpoints import try_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
VARIANTS = {
    "detr_r50": "detr2d/detr_r50.py",
    "deformable_detr_r50_refine": "detr2d/deformable_detr_r50_refine.py",
    "detr3d_res101_gridmask": "det3d/detr3d_r101.py",
    "petr_r50dcn_gridmask_c5": "det3d/petr_r50_c5.py",
}


@pytest.mark.parity
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_official_checkpoint_fits_its_config_alone(variant: str, parity: Path) -> None:
    manifest = json.loads((parity / variant / "manifest.json").read_text())
    state = {name: torch.empty(row["shape"], device="meta") for name, row in manifest.items()}
    candidates = {name: try_config(CONFIGS / config, state) for name, config in VARIANTS.items()}
    assert [name for name, found in candidates.items() if found and not found.misfit] == [variant]
    assert all(found and found.problems for name, found in candidates.items() if name != variant)
