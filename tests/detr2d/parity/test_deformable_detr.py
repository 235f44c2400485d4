"""Our Deformable DETR against the official numbers, and spoiled numbers against our comparison."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from detr2d.parity.families import check_directory
from tests.detr2d.parity.test_detr import change_arrays, change_json, failures, lines_of, nudge

pytestmark = pytest.mark.parity

VARIANTS = [
    "deformable_detr_r50_single_scale",
    "deformable_detr_r50_single_scale_dc5",
    "deformable_detr_r50",
    "deformable_detr_r50_refine",
    "deformable_detr_r50_refine_two_stage",
]
TINY = "deformable_detr_tiny"


def test_the_tiny_variant_gives_the_official_numbers(parity: Path) -> None:
    lines = lines_of(parity / TINY)
    assert [str(line) for line in lines if line.verdict == "FAIL"] == []
    assert sum(line.verdict == "ok" for line in lines) > 150


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_published_variants_give_the_official_numbers(parity: Path, variant: str) -> None:
    assert failures(parity / variant) == {}


def copy_case(parity: Path, variant: str, target: Path) -> Path:
    """A copy of the variant's first case, to be spoiled."""
    shutil.copy(parity / "fill.py", target / "fill.py")
    folder = target / variant
    folder.mkdir()
    for name in ("manifest.json", "config.json", "case_a.json", "case_a.npz"):
        (folder / name).write_bytes((parity / variant / name).read_bytes())
    return folder


def test_spoiled_numbers_fail(parity: Path, tmp_path: Path) -> None:
    copy = copy_case(parity, TINY, tmp_path)
    arrays = {
        "probe/input_proj.3", "probe/backbone.1/call3", "probe/transformer.encoder.layers.1",
        "probe/transformer.decoder.layers.0", "out/aux0/pred_logits", "post/1/scores",
        "post/0/boxes", "out64/pred_boxes",
    }  # fmt: skip
    # Without the right scores the boxes of image 1 are not found either.
    change_arrays(copy, dict.fromkeys(arrays, nudge))
    case = copy / "case_a.json"
    change_json(case, "losses", "loss_ce", change=lambda value: value * 1.001)
    change_json(case, "hungarian_last", change=lambda value: value[::-1])
    assert set(failures(copy)) == {
        *arrays, "losses/loss_ce", "hungarian_last", "post/1/boxes"
    }  # fmt: skip


def test_a_wrong_label_among_the_detections_fails(parity: Path, tmp_path: Path) -> None:
    copy = copy_case(parity, TINY, tmp_path)
    change_arrays(copy, {"post/1/labels": nudge})
    assert set(failures(copy)) == {"post/1/boxes"}


@pytest.mark.parametrize("key, value", [("with_box_refine", True), ("nheads", 2)])
def test_another_architecture_fails(parity: Path, tmp_path: Path, key: str, value: object) -> None:
    copy = copy_case(parity, TINY, tmp_path)
    change_json(copy / "config.json", "args", key, change=lambda _: value)
    assert failures(copy)


def test_spoiled_settings_fail(parity: Path, tmp_path: Path) -> None:
    copy = copy_case(parity, TINY, tmp_path)
    change_json(copy / "config.json", "args", "set_cost_class", change=lambda _: 1)
    change_json(copy / "config.json", "focal_alpha", change=lambda _: 0.5)
    settings = next(check_directory(copy))
    failed = {line.quantity for line in settings.lines if line.verdict == "FAIL"}
    assert failed == {"args/set_cost_class", "focal_alpha"}


def test_shared_heads_that_differ_are_told(parity: Path, tmp_path: Path) -> None:
    """A file whose duplicates disagree is not of the plain variant."""
    copy = copy_case(parity, TINY, tmp_path)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["class_embed.1.weight"].pop("alias_of")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (note,) = failures(copy).values()
    assert "given twice with different values: class_embed.1.weight (class_heads.0.weight)" in note


@pytest.mark.slow
def test_spoiled_proposals_fail(parity: Path, tmp_path: Path) -> None:
    copy = copy_case(parity, VARIANTS[-1], tmp_path)
    arrays = {"two_stage/topk_scores", "out/enc_outputs/pred_boxes"}
    change_arrays(copy, dict.fromkeys(arrays, nudge))
    case = copy / "case_a.json"
    change_json(case, "losses", "loss_bbox_enc", change=lambda value: value * 1.001)
    change_json(case, "hungarian_enc", change=lambda value: value[::-1])
    change_json(case, "two_stage_topk", "k", change=lambda value: value + 1)
    facts = {"losses/loss_bbox_enc", "hungarian_enc", "two_stage_topk"}
    assert set(failures(copy)) == {*arrays, *facts}
