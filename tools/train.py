"""Train an experiment: log, checkpoints and weights go to its work directory.

python tools/train.py configs/toy/detr3d.py
python tools/train.py configs/toy/detr3d.py --train.lr 1e-4 --work-dir outputs/slow
python tools/train.py configs/toy/detr3d.py --resume
torchrun --nproc-per-node 2 tools/train.py configs/toy/detr3d.py
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from detr2d.config import one_line_errors, parse_command
from detr2d.engine import fit
from detr2d.inference import finish


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of this run that do not change its result."""

    resume: bool = False
    """Continue from the newest training state in the work directory, if there is one."""
    stop_after: int | None = None
    """Save and stop once so many optimizer steps are done in all."""


def main() -> None:
    with one_line_errors():
        experiment, options = parse_command(sys.argv[1:], Options(), __doc__ or "")
        weights = fit(experiment, resume=options.resume, stop_after=options.stop_after)
    finish(f"weights: {weights}")


if __name__ == "__main__":
    main()
