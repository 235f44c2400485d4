"""Draw samples of a nuScenes-format database: all cameras, bird's-eye view, ground truth, findings.

python tools/visualize.py --root data/nuscenes --version v1.0-mini --count 4
python tools/visualize.py --root data/nuscenes --sample ca9a282c9e77460f8360f564131a8af5 --lidar
python tools/visualize.py --root data/nuscenes --results outputs/run/evaluation/results_nusc.json
python tools/visualize.py --config configs/toy/detr3d.py --checkpoint outputs/toy/model.safetensors
python tools/visualize.py --root data/nuscenes --scene scene-0103 --video
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from det3d.data.nuscenes import NuScenesConfig, NuScenesDataset
from det3d.data.nuscenes_index import NuScenesIndex, open_index
from det3d.visualization.cameras import PictureStyle
from det3d.visualization.nuscenes import (
    Detector,
    SamplePictures,
    model_detector,
    read_submission,
    spread,
    submission_detector,
    write_pictures,
    write_scene_videos,
)
from detr2d.config import Experiment, UserError, load_experiment, one_line_errors, user_errors
from detr2d.inference import load_model


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw and where the files go."""

    root: Path | None = None
    """Folder of the database; by default the config's."""
    version: str | None = None
    """Folder of the tables below root; by default the config's, or v1.0-mini."""
    sample: str | None = None
    """Token of the one sample to draw."""
    scene: str | None = None
    """Name of the scene to draw."""
    split: str | None = None
    """Name of the split to draw; by default the config's evaluation split, or all there is."""
    count: int | None = None
    """Samples to draw, evenly spread; by default 4, or all for a video."""
    results: Path | None = None
    """Official result file (submission JSON) with the detections to draw."""
    config: Path | None = None
    """Config of a model to run; needs --checkpoint."""
    checkpoint: Path | None = None
    """Weights of the model: model.safetensors of a run."""
    score: float = 0.3
    """Detections below this score are not drawn."""
    queries: bool = True
    """With a model, an extra picture of where its queries moved and sampled."""
    lidar: bool = False
    """Draw lidar points, from above and as an extra picture on the cameras."""
    video: bool = False
    """Write one video per scene instead of pictures."""
    fps: float = 4.0
    """Key frames per second of a video; nuScenes has two per second of time."""
    camera_width: int = 640
    """Width of each camera in pixels."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("outputs/pictures")
    """Where the files go."""
    index_dir: Path = Path("outputs/index")
    """Where the compact index of the tables is kept."""


def read_experiment(options: Options) -> tuple[Experiment, NuScenesConfig] | None:
    """The experiment of --config and its data, if there is one to run."""
    if (options.config is None) != (options.checkpoint is None):
        raise UserError("--config and --checkpoint go together: a model is built from both")
    if options.config is None:
        return None
    if options.results is not None:
        raise UserError("detections come from --results or from --config, not from both")
    experiment = load_experiment(options.config)
    if not isinstance(experiment.data, NuScenesConfig):
        came = type(experiment.data).__name__
        raise UserError(f"config {options.config} must have NuScenesConfig as data, got {came}")
    return experiment, experiment.data


def choose_rows(
    options: Options, index: NuScenesIndex, default: str | tuple[str, ...] | None
) -> np.ndarray:
    """Rows of the samples to draw; ``default`` is the selection if no option names one."""
    wishes = {"--sample": options.sample, "--scene": options.scene, "--split": options.split}
    given = [name for name, value in wishes.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"expected one of --sample, --scene and --split, got {' and '.join(given)}")
    if options.sample is not None:
        return np.array([index.row(options.sample)])
    selection = options.scene or options.split or default
    rows = np.arange(len(index)) if selection is None else index.rows(selection)
    if options.results is not None and not given:
        known = read_submission(options.results)
        rows = np.array([row for row in rows if str(index.sample_tokens[row], "utf-8") in known])
    if options.count is None:
        return spread(rows, None if options.video else 4)
    return spread(rows, options.count)


def make_detector(
    options: Options,
    experiment: tuple[Experiment, NuScenesConfig] | None,
    dataset: NuScenesDataset,
) -> Detector | None:
    """What finds objects in the samples of ``dataset``: a result file, a model, or nothing."""
    if options.results is not None:
        results = read_submission(options.results)
        return submission_detector(dataset.index, results, options.results, options.score)
    if experiment is None or options.checkpoint is None:
        return None
    settings, data = experiment
    seen_by_model = NuScenesDataset(
        dataset.index,
        root=dataset.root,
        rows=dataset.row_numbers,
        cameras=data.cameras,
        image_size=data.image_size,
    )
    return model_detector(
        load_model(settings, options.checkpoint),
        settings.system.postprocess,
        seen_by_model,
        score=options.score,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )


def make_pictures(options: Options) -> SamplePictures:
    """The samples that the options choose, ready to be drawn at their native size."""
    experiment = read_experiment(options)
    data = experiment[1] if experiment is not None else None
    root = options.root or (data.root if data is not None else None)
    if root is None:
        raise UserError("--root is missing: expected the folder of a nuScenes-format database")
    version = options.version or (data.version if data is not None else "v1.0-mini")
    index = open_index(root, version, options.index_dir)
    rows = choose_rows(options, index, data.evaluation_split if data is not None else None)
    height, width = index.image_sizes[rows].max((0, 1)).tolist()
    dataset = NuScenesDataset(
        index, root=root, rows=rows, cameras=index.channels, image_size=(int(height), int(width))
    )
    return SamplePictures(
        dataset=dataset,
        detector=make_detector(options, experiment, dataset),
        with_lidar=options.lidar,
        with_queries=options.queries,
        style=PictureStyle(camera_width=options.camera_width),
    )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with one_line_errors(), user_errors():
        pictures = make_pictures(options)
        if options.video:
            paths = write_scene_videos(pictures, options.output_dir, options.fps)
        else:
            paths = write_pictures(pictures, options.output_dir)
    print("\n".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
