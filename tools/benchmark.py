"""Time our programs against their peers: same weights, same outputs, in turns, in one process.

python tools/benchmark.py                                  # all cases; peers: pip install .[bench]
python tools/benchmark.py detr.infer --threads 1 --rounds 15 --json outputs/benchmark.json
python tools/benchmark.py detr.infer --peer-file ../detr_original.py
python tools/benchmark.py growth --rounds 5  # what cameras, queries, images cost
OMP_WAIT_POLICY=PASSIVE python tools/benchmark.py trunk.r50.fwd --threads 2

One thread is timed in processor time, several by the wall clock, a GPU by its events. Exit code 1
if a program's outputs differ from its peers'. A peer file binds peers = {case: function}; the
function gets what the case measures and returns contenders (docs/performance.md).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from det3d.benchmark import growth as growth_3d
from det3d.benchmark import loading as loading_3d
from det3d.benchmark import pieces as pieces_3d
from det3d.benchmark import systems
from detr2d.benchmark import deformable, detection, dino, growth, loading, pieces, training
from detr2d.benchmark.growth import GrowthRow, growth_table, measure_growth
from detr2d.benchmark.measure import Case, MismatchError, Row, Setup, run_case
from detr2d.benchmark.report import describe_machine, describe_run, keep, make_table
from detr2d.benchmark.subjects import read_peer_file
from detr2d.config import UserError, one_line_errors, user_errors

MODULES = (detection, deformable, dino, training, pieces, loading, pieces_3d, loading_3d, systems)
CASES = {case.name: case for module in MODULES for case in module.CASES}
GROWTHS = {growth.name: growth for growth in (*growth.GROWTHS, *growth_3d.GROWTHS)}
SUMMARIES = {name: case.summary for name, case in (CASES | GROWTHS).items()}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time our programs against their peers; exit code 1 if outputs differ."""

    cases: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names or beginnings of names (detr, trunk.r50.fwd); all if none is given."""
    threads: int = 1
    """CPU threads."""
    rounds: int | None = None
    """Repetitions of every program; by default 9 on a CPU, 30 on a GPU."""
    device: str = "cpu"
    """Where to run: cpu or cuda."""
    peer_file: tuple[Path, ...] = ()
    """Python files with peers that are not packages."""
    json: Path | None = None
    """Where to write all figures."""
    list: bool = False
    """Say which cases there are, and stop."""


def run_cases(cases: Sequence[Case], setup: Setup, failures: list[str]) -> Iterator[Row]:
    """The rows of all cases; a case that cannot be compared is a failure."""
    for case in cases:
        try:
            yield from run_case(case, setup)
        except (MismatchError, ImportError) as error:
            failures.append(f"FAIL {case.name}: {error}")


def show(lines: Iterable[str]) -> None:
    """Print lines as they come."""
    for line in lines:
        print(line, flush=True)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with one_line_errors():
        names = [n for n in SUMMARIES if not options.cases or n.startswith(options.cases)]
        if not names:
            raise UserError(
                f"expected one of {', '.join(SUMMARIES)}, got {' '.join(options.cases)}"
            )
        if options.list:
            print("\n".join(f"{name:22} {SUMMARIES[name]}" for name in names))
            return
        with user_errors():
            peer_files = tuple(read_peer_file(path) for path in options.peer_file)
            device = torch.device(options.device)
        rounds = options.rounds or (30 if device.type == "cuda" else 9)
        setup = Setup(device=device, threads=options.threads, rounds=rounds, peer_files=peer_files)
        torch.set_num_threads(options.threads)
        machine = describe_machine(setup)
    print(machine)
    rows: list[Row] = []
    failures: list[str] = []
    if compared := [CASES[name] for name in names if name in CASES]:
        show(make_table(keep(rows, run_cases(compared, setup, failures))))
    grown: list[GrowthRow] = []
    if growing := [GROWTHS[name] for name in names if name in GROWTHS]:
        show(growth_table(keep(grown, (measure_growth(growth, setup) for growth in growing))))
    print(*failures, sep="\n")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(describe_run([*rows, *grown], machine), indent=1))
    sys.exit(1 if failures or not (rows or grown) else 0)


if __name__ == "__main__":
    main()
