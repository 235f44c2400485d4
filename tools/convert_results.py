"""Convert between nuScenes submissions and the result format of the viewers.

python tools/convert_results.py results_nusc.json --root data/nuscenes -o results.json
python tools/convert_results.py --root data/nuscenes --select scene-0103 -o truth.json
python tools/convert_results.py results.json -o results_nusc.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from det3d.results.convert import convert
from detr2d.config import one_line_errors, user_errors


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to convert; without results the ground truth of a database."""

    results: Annotated[Path | None, tyro.conf.Positional] = None
    """Official submission, or a result file to make one of."""
    root: Path | None = None
    """Folder of the nuScenes-format database that a submission belongs to."""
    version: str = "v1.0-mini"
    """Folder of the tables below root."""
    select: str | None = None
    """Split or scene to take; by default all samples that have results, or all there are."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File to write."""
    index_dir: Path = Path("outputs/index")
    """Where the compact index of the tables is kept."""


def main() -> None:
    options = tyro.cli(Options, description=(__doc__ or "").split("\n\n")[0])
    with one_line_errors(), user_errors():
        frames = convert(
            options.results,
            options.output,
            root=options.root,
            version=options.version,
            select=options.select,
            index_dir=options.index_dir,
        )
    print(f"{options.output}: {frames} frames")


if __name__ == "__main__":
    main()
