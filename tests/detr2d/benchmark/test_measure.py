from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detr2d.benchmark.measure import (
    Case,
    Contender,
    Duel,
    MismatchError,
    Setup,
    check_outputs,
    run_case,
    take_turns,
)
from detr2d.benchmark.report import describe_machine, describe_run, make_table
from detr2d.benchmark.subjects import read_peer_file

SETUP = Setup(device=torch.device("cpu"), rounds=5)
VALUES = torch.tensor([-1.0, 1.0, 3.0])


def contender(
    name: str, values: Tensor = VALUES, *, seconds: float = 0.0, tolerance: float = 1e-3
) -> Contender:
    def run() -> Tensor:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return values

    return Contender(name, run, lambda output: {"values": output}, tolerance)


def case(*, ours: Contender, peer: Contender) -> Case:
    def duels(setup: Setup) -> Iterator[Duel]:
        yield Duel("small", ours=(ours,), peers=(peer, *setup.extra_peers("case", 7)))

    return Case("case", "a case", duels)


def test_the_ratio_is_their_time_by_ours() -> None:
    slow, fast = contender("peer", seconds=0.02), contender("ours", seconds=0.005)
    (row,) = run_case(case(ours=fast, peer=slow), SETUP)
    assert row.ratio == pytest.approx(4, rel=0.2)
    assert row.band[0] <= row.ratio <= row.band[1] or row.band[0] == pytest.approx(4, rel=0.2)
    assert row.our_times[0] == pytest.approx(5, rel=0.2)
    assert row.difference == 0


def test_programs_take_turns_and_turn_around() -> None:
    calls: list[str] = []
    contenders = [
        Contender(name, lambda name=name: calls.append(name), lambda output: {})  # type: ignore[misc]
        for name in ("a", "b")
    ]
    times = take_turns(contenders, Setup(device=torch.device("cpu"), rounds=3))
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (VALUES + 0.1, "values of other is 0.05 standard deviations from reference's"),
        (VALUES * torch.nan, "is nan standard deviations"),
        (VALUES[:2], r"other gives values as \(2,\), reference as \(3,\)"),
    ],
)
def test_different_outputs_are_not_timed(values: Tensor, message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        check_outputs("title", [contender("reference"), contender("other", values)])


def test_small_differences_are_reported() -> None:
    other = contender("other", VALUES + 0.1, tolerance=0.06)
    assert check_outputs("title", [contender("reference"), other])["other"] == pytest.approx(0.05)


def test_a_missing_output_is_a_mismatch() -> None:
    silent = Contender("silent", lambda: None, lambda output: {})
    with pytest.raises(MismatchError, match="silent gives values as nothing"):
        check_outputs("title", [contender("reference"), silent])


def test_equal_names_are_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        take_turns([contender("a"), contender("a")], SETUP)


def test_a_peer_file_adds_peers(tmp_path: Path) -> None:
    file = tmp_path / "peers.py"
    file.write_text(
        "from detr2d.benchmark.measure import Contender\n"
        "import torch\n"
        "def make(subject):\n"
        "    assert subject == 7\n"
        "    values = torch.tensor([-1.0, 1.0, 3.0])\n"
        "    return [Contender('from file', lambda: values, lambda output: {'values': output})]\n"
        "peers = {'case': make}\n"
    )
    setup = Setup(device=torch.device("cpu"), rounds=2, peer_files=(read_peer_file(file),))
    rows = list(run_case(case(ours=contender("ours"), peer=contender("peer")), setup))
    assert [row.peer for row in rows] == ["peer", "from file"]


def test_a_file_without_peers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match="must bind peers"):
        read_peer_file(tmp_path / "empty.py")


def test_table_and_json_say_the_same() -> None:
    rows = list(run_case(case(ours=contender("ours"), peer=contender("peer")), SETUP))
    table = list(make_table(rows))
    assert len(table) == 3 and len({line.count("|") for line in table}) == 1
    described = describe_run(rows, describe_machine(SETUP))
    assert described["rows"][0]["peer"] == "peer"
    assert described["machine"]["threads"] == 1 and described["machine"]["versions"]["torch"]
