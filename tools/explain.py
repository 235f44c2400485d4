"""Draw why a model put a box there: CONFIG CHECKPOINT [--sample TOKEN] [--box N | --query N].

python tools/explain.py configs/toy/detr3d.py outputs/demo/model.safetensors --box 0
python tools/explain.py configs/detr2d/detr_r50.py detr_r50.safetensors --sample 39769 --box 2

For each decoder layer, where the query behind the box looked and how strongly.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from det3d.visualization.explain_request import ExplainRequest, explain_to_file
from detr2d.config import one_line_errors, parse_command, user_errors


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to explain and where the picture goes."""

    checkpoint: tyro.conf.Positional[Path]
    """Exported weights: model.safetensors of a run or of tools/convert_checkpoint.py."""
    sample: str | None = None
    """Sample token or image id in the evaluation set; by default its first."""
    box: int = 0
    """Which detection, counted from the best."""
    query: int | None = None
    """Explain the best detection of this query instead."""
    camera_width: int = 480
    """Width of each camera in pixels."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("outputs/explanation.png")
    """Picture to write."""


def main() -> None:
    with one_line_errors():
        options = Options(checkpoint=tyro.MISSING)
        experiment, options = parse_command(sys.argv[1:], options, __doc__ or "")
        with user_errors():
            said = explain_to_file(experiment, ExplainRequest(**vars(options)))
    print(f"{said}\n{options.output}")


if __name__ == "__main__":
    main()
