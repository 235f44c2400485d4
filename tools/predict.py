"""Run a trained detector on image files or on a rig of your own: CONFIG CHECKPOINT FILE...

python tools/predict.py configs/detr2d/detr_r50.py outputs/detr_r50/model.safetensors street.jpg
python tools/predict.py configs/detr2d/detr_r50.py model.safetensors *.jpg --score 0.7 -o found
python tools/predict.py configs/toy/detr3d.py outputs/demo/model.safetensors rig.json --score 0.05

A multi-camera detector takes one file of cameras and images (docs/results_format.md) and writes
results.json, which tools/view.py and tools/visualize.py show. No database is needed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from det3d.data.nuscenes import NuScenesConfig
from det3d.prediction import predict_results
from detr2d.checkpoints.convert import naming_fitting_configs
from detr2d.config import Experiment, one_line_errors, parse_command, user_errors
from detr2d.prediction import image_resolution, load_detector, predict_files


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run on, and where the results go."""

    checkpoint: tyro.conf.Positional[Path]
    """Exported weights: model.safetensors of a run or of tools/convert_checkpoint.py."""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """Image files of any format; for a multi-camera config one result file with its cameras."""
    score: float = 0.5
    """Detections below this score are left out."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("outputs/predictions")
    """Where predictions.json and the pictures go, or results.json."""


def predict(experiment: Experiment, options: Options) -> list[Path]:
    """Run the detector; returns the files that it wrote."""
    score, output_dir = options.score, options.output_dir
    if not isinstance(experiment.data, NuScenesConfig):
        image_resolution(experiment.data)
        detector = load_detector(experiment, options.checkpoint)
        return predict_files(detector, options.files, output_dir, score=score)
    if len(options.files) != 1:
        raise ValueError(f"expected one result file with cameras, got {len(options.files)} files")
    rig = options.files[0]
    return [predict_results(experiment, options.checkpoint, rig, output_dir, score=score)]


def main() -> None:
    with one_line_errors():
        options = Options(checkpoint=tyro.MISSING, files=tyro.MISSING)
        experiment, options = parse_command(sys.argv[1:], options, __doc__ or "")
        naming = naming_fitting_configs(Path(sys.argv[1]), options.checkpoint)
        with user_errors(), naming:
            paths = predict(experiment, options)
    print("\n".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
