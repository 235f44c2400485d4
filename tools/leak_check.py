"""Check that a detector's score comes from training and geometry.

python tools/leak_check.py configs/toy/detr3d.py outputs/demo/model.safetensors
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from det3d.evaluation.leak_check import check_leaks, format_leaks
from detr2d.config import one_line_errors, parse_command
from detr2d.inference import finish


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to check and where its files go."""

    checkpoint: tyro.conf.Positional[Path]
    """Exported weights: model.safetensors of a run."""
    output_dir: Path | None = None
    """Where result files go; leak_check/ in the work directory if not set."""


def main() -> None:
    with one_line_errors():
        options = Options(checkpoint=tyro.MISSING)
        experiment, options = parse_command(sys.argv[1:], options, __doc__ or "")
        output_dir = options.output_dir or experiment.work_dir / "leak_check"
        scores = check_leaks(experiment, options.checkpoint, output_dir)
    finish(f"{format_leaks(scores)}\nfiles: {output_dir}")


if __name__ == "__main__":
    main()
