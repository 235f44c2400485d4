"""Compare our systems with official reference outputs, quantity by quantity.

python tools/parity.py ../shared/parity/detr_* ../shared/parity/ops
python tools/parity.py ../shared/parity/detr_r50 --fill ../shared/parity/fill.py

Each directory holds one variant (manifest.json, config.json, cases) or operator cases. Exit code 1
if anything fails. Directories are trusted: the recipe fill.py beside them is executed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from det3d.parity.families import check_directory


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare our systems with official reference outputs; exit code 1 if anything fails."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Fixture directories."""
    fill: Path | None = None
    """Recipe of weights and inputs; fill.py in or above each directory if not set."""
    failures_only: bool = False
    """Print failures and totals only."""
    threads: int = 1
    """CPU threads; the official numbers were made with one."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(options.threads)
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    for folder in options.folders:
        for section in check_directory(folder, options.fill):
            print(f"== {folder.name}: {section.title}")
            for line in section.lines:
                counts[line.verdict] += 1
                if line.verdict == "FAIL" or not options.failures_only:
                    print(line)
    print(f"{counts['ok']} ok, {counts['FAIL']} FAIL, {counts['skip']} skipped")
    sys.exit(1 if counts["FAIL"] or not counts["ok"] else 0)


if __name__ == "__main__":
    main()
