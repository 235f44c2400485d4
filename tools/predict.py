"""Run a trained 2D detector on image files: CONFIG CHECKPOINT IMAGE...

python tools/predict.py configs/detr2d/detr_r50.py outputs/detr_r50/model.safetensors street.jpg
python tools/predict.py configs/detr2d/detr_r50.py model.safetensors *.jpg --score 0.7 -o found
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from detr2d.checkpoints.convert import naming_fitting_configs
from detr2d.config import one_line_errors, parse_command, user_errors
from detr2d.prediction import image_resolution, load_detector, predict_files


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run on, and where the results go."""

    checkpoint: tyro.conf.Positional[Path]
    """Exported weights: model.safetensors of a run or of tools/convert_checkpoint.py."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files of any format."""
    score: float = 0.5
    """Detections below this score are left out."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("outputs/predictions")
    """Where predictions.json and the pictures go."""


def main() -> None:
    with one_line_errors():
        options = Options(checkpoint=tyro.MISSING, images=tyro.MISSING)
        experiment, options = parse_command(sys.argv[1:], options, __doc__ or "")
        naming = naming_fitting_configs(Path(sys.argv[1]), options.checkpoint)
        with user_errors(), naming:
            image_resolution(experiment.data)
            detector = load_detector(experiment, options.checkpoint)
            paths = predict_files(detector, options.images, options.output_dir, score=options.score)
    print("\n".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
