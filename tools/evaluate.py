"""Evaluate trained weights with the official code and keep its files.

python tools/evaluate.py configs/toy/detr3d.py outputs/toy/model.safetensors
python tools/evaluate.py configs/toy/detr3d.py outputs/toy/model.safetensors --data.root data/other
python tools/evaluate.py configs/detr2d/detr_r50.py detr-r50-e632da11.pth --data.root data/coco
python tools/evaluate.py configs/toy/detr3d.py outputs/toy/model.safetensors --train.compiled
torchrun --nproc-per-node 2 tools/evaluate.py configs/toy/detr3d.py outputs/toy/model.safetensors
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from detr2d.checkpoints.convert import naming_fitting_configs
from detr2d.config import one_line_errors, parse_command
from detr2d.inference import evaluate, finish


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to evaluate and where its files go."""

    checkpoint: tyro.conf.Positional[Path]
    """Exported weights (model.safetensors of a run), or an official .pth file."""
    output_dir: Path | None = None
    """Where result files go; evaluation/ in the work directory if not set."""


def main() -> None:
    with one_line_errors():
        options = Options(checkpoint=tyro.MISSING)
        experiment, options = parse_command(sys.argv[1:], options, __doc__ or "")
        output_dir = options.output_dir or experiment.work_dir / "evaluation"
        with naming_fitting_configs(Path(sys.argv[1]), options.checkpoint):
            report = evaluate(experiment, options.checkpoint, output_dir)
    finish(f"{report.table}\nfiles: {output_dir}")


if __name__ == "__main__":
    main()
