"""Our DINO against the official numbers, and spoiled numbers against our comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from detr2d.parity.dino import make_subject
from detr2d.parity.families import check_directory
from detr2d.parity.fixtures import read_fixture
from tests.detr2d.parity.test_deformable_detr import copy_case
from tests.detr2d.parity.test_detr import change_arrays, change_json, failures, nudge

pytestmark = pytest.mark.parity

VARIANTS = ["dino_r50_4scale", "dino_r50_5scale", "dino_swin_l_4scale"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_published_variants_give_the_official_numbers(parity: Path, variant: str) -> None:
    assert failures(parity / variant) == {}


def test_settings_agree_and_spoiled_ones_fail(parity: Path, tmp_path: Path) -> None:
    copy = copy_case(parity, VARIANTS[0], tmp_path)
    settings = next(check_directory(copy))
    assert not settings.failed
    changes = {"pe_temperatureH": 10000, "two_stage_type": "no", "set_cost_class": 1.0}
    for key, value in changes.items():
        change_json(copy / "config.json", "args", key, change=lambda _, value=value: value)
    settings = next(check_directory(copy))
    failed = {line.quantity for line in settings.lines if line.verdict == "FAIL"}
    assert failed == {f"args/{key}" for key in changes}


def test_noise_is_read_from_the_settings(parity: Path, tmp_path: Path) -> None:
    copy = copy_case(parity, VARIANTS[0], tmp_path)
    change_json(copy / "config.json", "args", "dn_box_noise_scale", change=lambda _: 0.3)
    assert make_subject(read_fixture(copy)).model.denoising.box_noise == 0.3


@pytest.mark.slow
def test_spoiled_numbers_fail(parity: Path, tmp_path: Path) -> None:
    copy = copy_case(parity, VARIANTS[0], tmp_path)
    arrays = {
        "probe/transformer.decoder.ref_point_head", "probe/transformer.decoder.norm",
        "out/interm_outputs/pred_logits", "out/interm_outputs_for_matching_pre/pred_boxes",
        "two_stage/topk_scores", "dn/pred_logits", "dn/train_pred_boxes", "out/aux4/pred_boxes",
    }  # fmt: skip
    change_arrays(copy, dict.fromkeys(arrays, nudge))
    case = copy / "case_a.json"
    change_json(case, "losses", "loss_xy_2", change=lambda value: value * 1.001)
    change_json(case, "losses", "loss_giou_interm", change=lambda value: value * 1.001)
    change_json(case, "losses", "loss_ce_dn_1", change=lambda value: value + 1)
    change_json(case, "hungarian_interm", change=lambda value: value[::-1])
    change_json(case, "dn", "losses", "loss_hw_dn_3", change=lambda value: value * 1.001)
    facts = {"losses/loss_xy_2", "losses/loss_giou_interm", "losses/loss_ce_dn_1"}
    assert set(failures(copy)) == {*arrays, *facts, "hungarian_interm", "dn"}
