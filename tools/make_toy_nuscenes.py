"""Write a toy world, a valid nuScenes database of drawn streets: ``make_toy_nuscenes.py ROOT``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from det3d.data.toy_rig import KEY_FRAME_PERIOD
from det3d.data.toy_world import make_toy_nuscenes


@dataclass(frozen=True)
class ToyWorld:
    """Settings of a toy world."""

    root: Annotated[Path, tyro.conf.Positional]
    """New folder for the database."""
    version: Literal["v1.0-mini", "v1.0-trainval"] = "v1.0-mini"
    """Which official scene names it carries."""
    seed: int = 0
    """Another seed, another world; the same seed, the same bytes."""
    image_size: tuple[int, int] = (256, 448)
    """Height and width of the images."""
    frames_per_scene: int = 40
    """Key frames of a scene."""
    frame_period: float = KEY_FRAME_PERIOD
    """Seconds between key frames, for image sets that vary; beyond 1.5, velocities are unknown."""
    scenes_per_split: tuple[int, int] | None = None
    """Scenes for training and validation; None for all official names."""
    workers: int = 2
    """Processes."""
    coco: bool = True
    """Also write COCO instance and panoptic annotations of the images."""
    balanced: bool = False
    """Rare classes two to four times as often, for training sets."""
    progress: bool = True
    """Show a progress bar."""


def main() -> None:
    settings = tyro.cli(ToyWorld, description=__doc__)
    try:
        root = make_toy_nuscenes(**vars(settings))
    except (ValueError, FileExistsError) as error:
        raise SystemExit(f"make_toy_nuscenes: {error}") from None
    print(f"toy world of seed {settings.seed} in {root}")


if __name__ == "__main__":
    main()
