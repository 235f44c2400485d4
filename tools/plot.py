"""Draw training logs, several runs together, or an official evaluation: ``plot.py PATH...``

python tools/plot.py outputs/demo outputs/mine -o curves.png
python tools/plot.py outputs/demo/evaluation -o evaluation.png
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from det3d.visualization.evaluation_plots import DETAILS_FILE, draw_evaluation
from detr2d.config import one_line_errors, user_errors
from detr2d.curves import draw_curves, read_series, run_names


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw and where to."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Work directories or their log.jsonl; or one folder that tools/evaluate.py wrote."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("outputs/curves.png")
    """Picture to write: .png, .svg or .pdf."""
    score: float = 0.3
    """Detections of an evaluation below this score are not counted among the errors."""


def main() -> None:
    options = tyro.cli(Options, description=(__doc__ or "").split("\n\n")[0])
    with one_line_errors(), user_errors():
        if len(options.paths) == 1 and (options.paths[0] / DETAILS_FILE).is_file():
            draw_evaluation(options.paths[0], options.output, score=options.score)
        else:
            names = run_names(options.paths)
            runs = dict(zip(names, map(read_series, options.paths), strict=True))
            draw_curves(runs, options.output)
    print(options.output)


if __name__ == "__main__":
    main()
