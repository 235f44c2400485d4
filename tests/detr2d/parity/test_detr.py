"""Our DETR against the official numbers, and spoiled numbers against our comparison."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detr2d.parity.families import check_directory
from detr2d.parity.ledger import Line

pytestmark = pytest.mark.parity

TINY = ["detr_tiny_r18", "detr_tiny_r18_prenorm"]
LARGE = [
    "detr_r50", "detr_r50_dc5", "detr_r101", "detr_r101_dc5",
    "detr_r50_panoptic", "detr_r50_dc5_panoptic", "detr_r101_panoptic",
]  # fmt: skip


def lines_of(folder: Path) -> list[Line]:
    return [line for section in check_directory(folder) for line in section.lines]


def failures(folder: Path) -> dict[str, str]:
    return {line.quantity: line.note for line in lines_of(folder) if line.verdict == "FAIL"}


@pytest.mark.parametrize("variant", TINY)
def test_tiny_variants_give_the_official_numbers(parity: Path, variant: str) -> None:
    lines = lines_of(parity / variant)
    assert [str(line) for line in lines if line.verdict == "FAIL"] == []
    assert sum(line.verdict == "ok" for line in lines) > 150
    assert all(line.note for line in lines if line.verdict == "skip")


@pytest.mark.slow
@pytest.mark.parametrize("variant", LARGE)
def test_published_variants_give_the_official_numbers(parity: Path, variant: str) -> None:
    assert failures(parity / variant) == {}


def test_single_operations_give_the_official_numbers(parity: Path) -> None:
    lines = lines_of(parity / "ops")
    assert [str(line) for line in lines if line.verdict == "FAIL"] == []
    assert sum(line.verdict == "ok" for line in lines) >= 100


@pytest.fixture
def copy(parity: Path, tmp_path: Path) -> Path:
    """A copy of the tiny variant with its first case only, to be spoiled."""
    shutil.copy(parity / "fill.py", tmp_path / "fill.py")
    target = tmp_path / TINY[0]
    target.mkdir()
    for name in ("manifest.json", "config.json", "case_a.json", "case_a.npz"):
        (target / name).write_bytes((parity / TINY[0] / name).read_bytes())
    return target


def change_arrays(folder: Path, changes: dict[str, Callable[[np.ndarray], Any]]) -> None:
    path = folder / "case_a.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays |= {key: change(arrays[key]) for key, change in changes.items()}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def change_json(path: Path, *keys: str, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = change(place[keys[-1]])
    path.write_text(json.dumps(content))


def nudge(array: np.ndarray) -> np.ndarray:
    """The array with its middle entry moved by more than any tolerance."""
    changed = array.copy()
    step = 1 if array.dtype.kind in "iub" else 0.02 * max(1.0, float(np.abs(array).max()))
    changed.reshape(-1)[array.size // 2] += step
    return changed


def test_every_spoiled_array_fails(copy: Path) -> None:
    keys = {
        "in/pad_mask", "in/image_probe", "in/target0/labels", "in/target1/boxes",
        "probe/backbone.0/0", "probe/backbone.1/call0", "probe/transformer.encoder.layers.1",
        "probe_shape/input_proj", "probe_stat/transformer.decoder.norm",
        "out/aux0/pred_logits", "out/aux1/pred_boxes",
        "post/0/scores", "post/1/labels", "post/1/boxes", "out64/pred_logits", "out64/pred_boxes",
    }  # fmt: skip
    change_arrays(copy, dict.fromkeys(keys, nudge))
    assert set(failures(copy)) == keys


def test_spoiled_outputs_fail_and_so_does_what_rests_on_them(copy: Path) -> None:
    keys = ["out/pred_logits", "out/pred_boxes"]
    change_arrays(copy, dict.fromkeys(keys, nudge))
    assert set(failures(copy)) == {*keys, "fp64_max_abs_diff"}


def test_arrays_that_are_left_out_fail(copy: Path) -> None:
    keys = {"out/aux0/pred_boxes", "probe/input_proj", "out64/pred_logits"}
    change_arrays(copy, dict.fromkeys(keys, lambda array: None))
    found = failures(copy)
    assert set(found) == keys and all("the official case has no" in note for note in found.values())


def test_every_spoiled_fact_fails(copy: Path) -> None:
    case = copy / "case_a.json"
    first = next(iter(json.loads(case.read_text())["grad_norms"]))
    change_json(case, "losses", "loss_giou_0", change=lambda value: value * 1.001)
    change_json(case, "losses", "class_error", change=lambda value: value - 25)
    change_json(case, "losses", "cardinality_error", change=lambda value: value + 0.5)
    change_json(case, "weighted_total", change=lambda value: value * 1.001)
    change_json(case, "hungarian_last", change=lambda value: [[value[0][0][::-1], value[0][1]]] * 2)
    change_json(case, "hungarian_aux", change=lambda value: value[::-1])
    change_json(case, "grad_norms", first, change=lambda value: value * 1.01)
    change_json(case, "grad_total_norm", change=lambda value: value * 1.01)
    change_json(case, "not_trainable", change=lambda value: value + 1)
    change_json(case, "grad_none", change=lambda value: ["query_embed.weight"])
    change_json(case, "fp64_max_abs_diff", "pred_logits", change=lambda value: 1.0)
    expected = {
        "losses/loss_giou_0", "losses/class_error", "losses/cardinality_error", "weighted_total",
        "hungarian_last", "hungarian_aux", "grad_norms", "grad_total_norm", "not_trainable",
        "grad_none", "fp64_max_abs_diff",
    }  # fmt: skip
    assert set(failures(copy)) == expected


def test_a_new_quantity_is_not_passed_over(copy: Path) -> None:
    path = copy / "case_a.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "loss_of_tomorrow": 3}))
    assert failures(copy) == {"loss_of_tomorrow": "no check looks at this quantity"}


def test_spoiled_settings_fail(copy: Path) -> None:
    changes = {"num_params": 3, "eos_coef": 0.2, "losses": [], "weight_dict": {}, "num_keys": 1}
    for key, value in {**changes, "fill_fingerprint": 1.0}.items():
        change_json(copy / "config.json", key, change=lambda _, value=value: value)
    change_json(copy / "config.json", "args", "set_cost_bbox", change=lambda _: 1)
    settings = next(check_directory(copy))
    failed = {line.quantity for line in settings.lines if line.verdict == "FAIL"}
    assert failed == {*changes, "fill_fingerprint", "args/set_cost_bbox"}


@pytest.mark.parametrize("key, value", [("pre_norm", True), ("dec_layers", 2), ("nheads", 2)])
def test_another_architecture_fails(copy: Path, key: str, value: object) -> None:
    change_json(copy / "config.json", "args", key, change=lambda _: value)
    assert failures(copy)


def test_other_weights_fail(copy: Path) -> None:
    change_json(copy / "config.json", "salt", change=lambda salt: salt + 1)
    found = failures(copy)
    assert {"fill_fingerprint", "out/pred_logits", "losses/loss_ce", "grad_norms"} <= set(found)


def test_spoiled_key_lists_fail_by_name(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["class_embed.weight"]["shape"] = [91, 64]
    manifest["stray.weight"] = manifest.pop("query_embed.weight")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (note,) = failures(copy).values()
    for words in ("stray.weight", "missing: transformer.queries.weight", "class_head.weight is 91"):
        assert words in note


@pytest.mark.parametrize("name", ["case_a.npz", "case_a.json", "config.json", "manifest.json"])
def test_broken_and_missing_files_fail(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    assert failures(copy)
    (copy / name).unlink()
    assert failures(copy)


def test_unknown_variants_and_empty_folders_fail(copy: Path, tmp_path: Path) -> None:
    change_json(copy / "config.json", "variant", change=lambda _: "yolo_tiny")
    assert "no known family" in failures(copy)[str(copy)]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert failures(empty)


def test_the_tool_exits_with_one_on_any_failure(
    parity: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = str(Path(__file__).resolve().parents[3] / "tools/parity.py")
    monkeypatch.setattr(sys, "argv", [tool, str(parity / "ops"), "--failures-only"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(tool, run_name="__main__")
    assert stop.value.code == 0 and " 0 FAIL" in capsys.readouterr().out
    (copy / "case_a.npz").write_bytes(b"")
    sys.argv.insert(1, str(copy))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(tool, run_name="__main__")
    assert stop.value.code == 1 and " 1 FAIL" in capsys.readouterr().out


@pytest.mark.slow
def test_spoiled_masks_and_segments_fail(parity: Path, tmp_path: Path) -> None:
    variant = "detr_r50_panoptic"
    shutil.copy(parity / "fill.py", tmp_path / "fill.py")
    copy = tmp_path / variant
    copy.mkdir()
    for name in ("manifest.json", "config.json", "case_a.json", "case_a.npz"):
        (copy / name).write_bytes((parity / variant / name).read_bytes())
    arrays = {"post_segm/0/masks_packed", "post_segm/1/shape", "post_panoptic/1/id_map"}
    change_arrays(copy, dict.fromkeys(arrays, nudge))
    case = copy / "case_a.json"
    change_json(case, "losses", "loss_dice", change=lambda value: value * 1.001)
    change_json(case, "panoptic", "num_argmax_noobj", change=lambda value: value + 1)
    change_json(case, "panoptic", "segments_info_0", change=lambda value: value[::-1])
    facts = {"losses/loss_dice", "panoptic/num_argmax_noobj", "panoptic/segments_info_0"}
    # An area of image 1 no longer agrees with its id map either.
    assert set(failures(copy)) == {*arrays, *facts, "panoptic/segments_info_1"}
