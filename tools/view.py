"""Make one page to look through results offline: ``view.py results.json -o page.html``.

python tools/view.py outputs/demo/evaluation/results.json -o page.html
python tools/view.py results.json --scenes scene-0103 --frames 40 --root data/nuscenes -o page.html
python tools/view.py results.json -o scene.mcap

The page holds images, boxes and everything else; any browser opens it. Needs neither torch nor a
dataset package.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from det3d.results.format import read_results
from det3d.viewer.mcap import write_mcap
from det3d.viewer.page import PageStyle, choose_frames, write_page


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to show and where the page goes."""

    results: tyro.conf.Positional[Path]
    """Result file (docs/results_format.md), as tools/evaluate.py writes it."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("page.html")
    """Page to write; a name that ends in .mcap makes a file for robotics viewers (extra viz)."""
    root: Path | None = None
    """Folder of the images, if they are no longer where the result file says."""
    scenes: tuple[str, ...] = ()
    """Scenes to show; by default all."""
    frames: int | None = None
    """Frames to show; by default all."""
    page: Annotated[PageStyle, tyro.conf.arg(name="")] = field(default_factory=PageStyle)
    """What goes into the page."""


def main() -> None:
    options = tyro.cli(Options, description=(__doc__ or "").split("\n\n")[0])
    try:
        results = read_results(options.results)
        results = choose_frames(results, options.scenes, options.frames, options.root)
        if options.output.suffix == ".mcap":
            page = options.page
            size = write_mcap(
                results, options.output, camera_width=page.camera_width, min_score=page.min_score
            )
        else:
            size = write_page(results, options.output, options.page)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{options.output}: {len(results.frames)} frames, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
