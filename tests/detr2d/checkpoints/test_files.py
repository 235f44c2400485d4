from pathlib import Path

import pytest
import torch
from torch import nn

from detr2d.checkpoints.files import (
    STATE_FILE,
    Origin,
    export_weights,
    list_states,
    load_state,
    load_weights,
    newest_whole_state,
    read_origin,
    save_state,
    write_atomically,
)

ORIGIN = Origin(config={"system": {"width": 3, "sizes": [1, 2]}}, classes=("car", "bus"))


def state_names(work_dir: Path) -> list[str]:
    return [path.name for path in list_states(work_dir)]


def test_a_state_reads_back_with_its_origin(tmp_path: Path) -> None:
    path = save_state(tmp_path, 5, {"model": {"w": torch.arange(3)}, "x": None}, ORIGIN, keep=2)
    state, origin = load_state(path)
    assert state["step"] == 5
    assert state["x"] is None
    assert state["model"]["w"].tolist() == [0, 1, 2]
    assert origin == ORIGIN
    assert (path / "config.json").read_text().startswith('{\n  "system"')


def test_only_the_newest_states_are_kept(tmp_path: Path) -> None:
    for step in (1, 20, 3, 100):
        save_state(tmp_path, step, {}, ORIGIN, keep=2)
    assert state_names(tmp_path) == ["step_00000020", "step_00000100"]


def test_a_write_that_is_cut_off_leaves_the_old_states_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, 1, {}, ORIGIN, keep=2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save_state(tmp_path, 2, {}, ORIGIN, keep=2)
    assert state_names(tmp_path) == ["step_00000001"]
    save_state(tmp_path, 2, {}, ORIGIN, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_00000001",
        "step_00000002",
    ]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_state_is_refused_by_name(tmp_path: Path, kept: float) -> None:
    path = save_state(tmp_path, 5, {"w": torch.arange(999)}, ORIGIN, keep=2)
    whole = (path / STATE_FILE).read_bytes()
    (path / STATE_FILE).write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    with pytest.raises(ValueError, match=r"step_00000005.*truncated or foreign"):
        load_state(path)


def test_a_state_with_one_wrong_bit_is_refused(tmp_path: Path) -> None:
    path = save_state(tmp_path, 5, {"w": torch.arange(999)}, ORIGIN, keep=2)
    whole = bytearray((path / STATE_FILE).read_bytes())
    whole[len(whole) // 2] ^= 1
    (path / STATE_FILE).write_bytes(whole)
    with pytest.raises(ValueError, match=r"step_00000005.*damaged: the checksum"):
        load_state(path)


def test_the_newest_whole_state_is_found_and_broken_ones_are_set_aside(tmp_path: Path) -> None:
    paths = [save_state(tmp_path, step, {"model": {}}, ORIGIN, keep=9) for step in (1, 2, 3, 4)]
    (paths[2] / STATE_FILE).write_bytes(b"PK")
    (paths[3] / STATE_FILE).unlink()
    found, refused = newest_whole_state(tmp_path)
    assert found == paths[1]
    assert "step_00000004" in refused[0] and "does not exist" in refused[0]
    assert "step_00000003" in refused[1] and "truncated" in refused[1]
    assert state_names(tmp_path) == ["step_00000001", "step_00000002"]
    assert (tmp_path / "checkpoints" / "refused_0_step_00000003" / STATE_FILE).exists()
    save_state(tmp_path, 3, {"model": {}}, ORIGIN, keep=9)  # the step can be saved anew
    assert newest_whole_state(tmp_path) == (paths[2], [])


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(5, "I/O"), MemoryError()])
def test_what_the_machine_is_at_fault_for_sets_no_state_aside(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save_state(tmp_path, step, {"model": {}}, ORIGIN, keep=9)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        newest_whole_state(tmp_path)
    assert state_names(tmp_path) == ["step_00000001", "step_00000002"]


def test_a_whole_state_that_finds_no_room_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_state(tmp_path, 1, {"model": {}}, ORIGIN, keep=9)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(MemoryError, match=r"step_00000001.*can't allocate"):
        load_state(path)


def test_where_no_state_is_whole_all_stay_where_they_are(tmp_path: Path) -> None:
    """Else the next attempt would find nothing to resume, and start anew without a word."""
    path = save_state(tmp_path, 1, {}, ORIGIN, keep=9)
    (path / STATE_FILE).write_bytes(b"")
    found, refused = newest_whole_state(tmp_path)
    assert found is None and len(refused) == 1
    assert state_names(tmp_path) == ["step_00000001"]


@pytest.mark.parametrize("content", [{"model": {}}, [1], 3])
def test_a_foreign_state_is_refused_by_name(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / STATE_FILE)
    with pytest.raises(ValueError, match=f"{STATE_FILE} is not a training state"):
        load_state(tmp_path)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("code of a training state was executed",))


def test_code_in_a_state_is_not_executed(tmp_path: Path) -> None:
    torch.save({"model": Harmful()}, tmp_path / STATE_FILE)
    with pytest.raises(ValueError, match="foreign"):
        load_state(tmp_path)


def test_exported_weights_read_back_with_their_origin(tmp_path: Path) -> None:
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    export_weights(tmp_path / "m.safetensors", model.state_dict(), ORIGIN)
    load_weights(other, tmp_path / "m.safetensors")
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert read_origin(tmp_path / "m.safetensors") == ORIGIN


def test_weights_shared_by_layers_can_be_exported(tmp_path: Path) -> None:
    head = nn.Linear(2, 2)
    model = nn.ModuleList([head, head])
    export_weights(tmp_path / "m.safetensors", model.state_dict(), ORIGIN)
    load_weights(nn.ModuleList([head, head]), tmp_path / "m.safetensors")


def test_every_key_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    weights = {"weight": torch.zeros(3, 4), "scale": torch.zeros(1)}
    export_weights(tmp_path / "m.safetensors", weights, ORIGIN)
    with pytest.raises(ValueError, match=r"m\.safetensors") as error:
        load_weights(nn.Linear(2, 3), tmp_path / "m.safetensors")
    assert "missing bias" in str(error.value)
    assert "unexpected scale" in str(error.value)
    assert "weight has shape (3, 4), expected (3, 2)" in str(error.value)


@pytest.mark.parametrize("read", [read_origin, lambda path: load_weights(nn.Linear(1, 1), path)])
def test_a_truncated_or_missing_export_is_refused_by_name(tmp_path: Path, read) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError, match=r"m\.safetensors"):
        read(path)
    export_weights(path, {"weight": torch.zeros(99)}, ORIGIN)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"m\.safetensors is truncated"):
        read(path)


def test_weights_without_origin_say_so(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors carries no config"):
        read_origin(tmp_path / "m.safetensors")
