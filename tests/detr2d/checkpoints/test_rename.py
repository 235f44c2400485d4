from __future__ import annotations

import pytest
import torch

from detr2d.checkpoints.rename import MisfitError, Table, convert

TABLE = Table(
    rules=(
        (r"old\.counter", None),
        (r"old\.(\d+)\.w", r"new.\1.weight"),
        (r"alias\.(\d+)\.w", r"new.\1.weight"),
        (r"flip\.w", "flipped.weight"),
    ),
    edits=((r"flipped\..*", lambda tensor: tensor.flip(0)),),
)
EXPECTED = {"new.0.weight": torch.zeros(2, 3), "flipped.weight": torch.zeros(2)}


def state(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    usual = {"old.0.w": torch.ones(2, 3), "flip.w": torch.tensor([1.0, 2.0])}
    changed = {name.replace("_", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in (usual | changed).items() if tensor is not None}


def test_names_are_changed_tensors_edited_and_drops_are_dropped() -> None:
    found = convert(state(old_counter=torch.zeros(1)), TABLE, EXPECTED)
    assert list(found) == list(EXPECTED)
    assert torch.equal(found["new.0.weight"], torch.ones(2, 3))
    assert found["flipped.weight"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stray_w": torch.zeros(1)}, "1 known to no rule: stray.w"),
        ({"old_1_w": torch.zeros(1)}, "1 unexpected: new.1.weight"),
        ({"flip_w": None}, "1 missing: flipped.weight"),
        ({"old_0_w": torch.zeros(3, 2)}, r"1 mis-shaped: new.0.weight is 3×2, expected 2×3"),
        ({"alias_0_w": torch.zeros(2, 3)}, r"1 given twice .*: alias.0.w \(new.0.weight\)"),
    ],
)
def test_every_misfit_is_named(changes: dict[str, torch.Tensor | None], message: str) -> None:
    with pytest.raises(MisfitError, match=message):
        convert(state(**changes), TABLE, EXPECTED)


def test_all_misfits_come_in_one_report_and_a_short_one_is_short() -> None:
    strays = {f"stray_{index}": torch.zeros(1) for index in range(9)}
    with pytest.raises(MisfitError, match="missing: flipped") as error:
        convert(state(flip_w=None, **strays), TABLE, EXPECTED)
    assert str(error.value).count("stray") == 9
    assert error.value.summary(limit=2).startswith("9 known to no rule: stray.0, stray.1, ...;")


def test_two_names_of_one_tensor_are_fine_if_they_agree() -> None:
    found = convert(state(alias_0_w=torch.ones(2, 3)), TABLE, EXPECTED)
    assert torch.equal(found["new.0.weight"], torch.ones(2, 3))


def test_kept_keys_stay_as_they_are_whatever_comes() -> None:
    expected = EXPECTED | {"flipped.weight": torch.full((5,), 7.0)}
    found = convert(state(), TABLE, expected, keep=("flipped.",))
    assert torch.equal(found["flipped.weight"], torch.full((5,), 7.0))


def test_types_follow_the_model() -> None:
    found = convert(state(flip_w=torch.ones(2, dtype=torch.float16)), TABLE, EXPECTED)
    assert found["flipped.weight"].dtype == torch.float32


def test_a_prefix_is_taken_literally() -> None:
    table = TABLE.prefixed("detr.")
    prefixed = {f"detr.{name}": tensor for name, tensor in state().items()}
    assert set(convert(prefixed, table, EXPECTED)) == set(EXPECTED)
    with pytest.raises(MisfitError):
        convert({f"detrX{name}": t for name, t in state().items()}, table, EXPECTED)
