"""Turn an official checkpoint into weights of this library, with the config inside.

python tools/convert_checkpoint.py configs/detr2d/detr_r50.py detr-r50-e632da11.pth out.safetensors
python tools/convert_checkpoint.py own.py detr-r50-e632da11.pth out.safetensors --new-class-head
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from detr2d.checkpoints.convert import convert_checkpoint
from detr2d.config import one_line_errors, parse_command


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to convert and where to."""

    checkpoint: tyro.conf.Positional[Path]
    """Official file, .pth."""
    output: tyro.conf.Positional[Path]
    """Weights to write, .safetensors."""
    averaged: bool = False
    """Take the averaged (EMA) weights of a file that holds both."""
    new_class_head: bool = False
    """Leave the class head as initialised, for other classes than the checkpoint's."""


def main() -> None:
    with one_line_errors():
        options = Options(checkpoint=tyro.MISSING, output=tyro.MISSING)
        experiment, options = parse_command(sys.argv[1:], options, __doc__ or "")
        notes = convert_checkpoint(
            Path(sys.argv[1]),
            experiment,
            options.checkpoint,
            options.output,
            averaged=options.averaged,
            new_class_head=options.new_class_head,
        )
    print("\n".join([*notes, f"weights: {options.output}"]))


if __name__ == "__main__":
    main()
