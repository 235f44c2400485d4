"""Train an experiment: log, checkpoints and weights go to its work directory.

python tools/train.py configs/toy/detr3d.py
python tools/train.py configs/toy/detr3d.py --train.lr 1e-4 --work-dir outputs/slow
python tools/train.py configs/toy/detr3d.py --resume
torchrun --nproc-per-node 2 tools/train.py configs/toy/detr3d.py
python tools/train.py configs/toy/detr3d.py --replay outputs/demo/replay/step_00000007_process_0.pt

SIGTERM and Ctrl-C save at the next step and end with exit code 75; --resume continues.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from detr2d.config import one_line_errors, parse_command
from detr2d.engine import fit
from detr2d.inference import finish
from detr2d.replay import replay
from detr2d.stopping import STOPPED, Stopped


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of this run that do not change its result."""

    resume: bool = False
    """Continue from the newest training state in the work directory, if there is one."""
    stop_after: int | None = None
    """Save and stop once so many optimizer steps are done in all."""
    replay: Path | None = None
    """Do not train: run a step that was not finite once more, and say where it breaks."""


def main() -> None:
    with one_line_errors():
        experiment, options = parse_command(sys.argv[1:], Options(), __doc__ or "")
        if options.replay is not None:
            found = replay(experiment, options.replay)
            finish(found.text)
            sys.exit(0 if found.finite else 1)
        try:
            weights = fit(experiment, resume=options.resume, stop_after=options.stop_after)
        except Stopped as stopped:
            finish(str(stopped))
            sys.exit(STOPPED)
    finish(f"weights: {weights}")


if __name__ == "__main__":
    main()
