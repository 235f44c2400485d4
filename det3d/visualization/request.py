"""What a user asks to be drawn, from which database, and the files that answer it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from det3d.data.nuscenes import NuScenesConfig, NuScenesDataset
from det3d.data.nuscenes_index import NuScenesIndex, open_index
from det3d.results.format import is_results, read_results
from det3d.results.nuscenes import read_submission
from det3d.viewer.page import choose_frames
from det3d.visualization.cameras import PictureStyle
from det3d.visualization.detectors import (
    Detector,
    model_detector,
    submission_detector,
)
from det3d.visualization.nuscenes import (
    DatabaseSource,
    SamplePictures,
    write_pictures,
    write_scene_videos,
)
from det3d.visualization.result_source import ResultSource
from detr2d.checkpoints.convert import naming_fitting_configs
from detr2d.config import Experiment, UserError, load_experiment, user_errors
from detr2d.data.coco import CocoConfig
from detr2d.data.panoptic import CocoPanopticConfig
from detr2d.inference import load_model
from detr2d.prediction import load_detector
from detr2d.prediction import write_pictures as write_image_pictures
from detr2d.results import Finder
from detr2d.results import read_results as read_coco_results


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """What to draw and where the files go."""

    root: Path | None = None
    """Folder of the database; by default the config's."""
    version: str | None = None
    """Folder of the tables below root; by default the config's, or v1.0-mini."""
    sample: str | None = None
    """Token of the one sample to draw; the image id for a 2D config."""
    scene: str | None = None
    """Name of the scene to draw."""
    split: str | None = None
    """Name of the split to draw; by default the config's evaluation split, or all there is."""
    count: int | None = None
    """Samples to draw, evenly spread; by default 4, or all for a video."""
    results: Path | None = None
    """Our result file, which needs no database, a nuScenes submission, or COCO results."""
    config: Path | None = None
    """Config of a model to run; needs --checkpoint, except to look at a 2D config's data."""
    checkpoint: Path | None = None
    """Weights of the model: model.safetensors of a run."""
    score: float = 0.3
    """Detections below this score are not drawn."""
    augmented: bool = False
    """Draw samples as the training of --config sees them: framed, padded and augmented."""
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


def read_experiment(request: PictureRequest) -> tuple[Experiment, NuScenesConfig] | None:
    """The experiment of --config and its data, if there is one to run."""
    alone = request.augmented and request.config is not None
    if (request.config is None) != (request.checkpoint is None) and not alone:
        raise UserError("--config and --checkpoint go together: a model is built from both")
    if request.config is None:
        return None
    if request.results is not None:
        raise UserError("detections come from --results or from --config, not from both")
    experiment = load_experiment(request.config)
    if not isinstance(experiment.data, NuScenesConfig):
        came = type(experiment.data).__name__
        raise UserError(f"config {request.config} must have NuScenesConfig as data, got {came}")
    return experiment, experiment.data


def choose_rows(
    request: PictureRequest, index: NuScenesIndex, default: str | tuple[str, ...] | None
) -> np.ndarray:
    """Rows of the samples to draw; ``default`` is the selection if the request names none."""
    wishes = {"--sample": request.sample, "--scene": request.scene, "--split": request.split}
    given = [name for name, value in wishes.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"expected one of --sample, --scene and --split, got {' and '.join(given)}")
    if request.sample is not None:
        if request.sample not in index.rows_by_token:
            known = f"{index.version} ({len(index)} samples)"
            raise UserError(f"no sample {request.sample!r} in {known}")
        return np.array([index.row(request.sample)])
    selection = request.scene or request.split or default
    rows = np.arange(len(index)) if selection is None else index.rows(selection)
    if request.results is not None and not given:
        found = read_submission(request.results)
        rows = np.array([row for row in rows if str(index.sample_tokens[row], "utf-8") in found])
    if request.count is None:
        return spread(rows, None if request.video else 4)
    return spread(rows, request.count)


def make_detector(
    request: PictureRequest,
    experiment: tuple[Experiment, NuScenesConfig] | None,
    dataset: NuScenesDataset,
) -> Detector | None:
    """What finds objects in the samples of ``dataset``: a result file, a model, or nothing."""
    if request.results is not None:
        results = read_submission(request.results)
        return submission_detector(dataset.index, results, request.results, request.score)
    if experiment is None or request.checkpoint is None:
        return None
    settings, data = experiment
    drawn = dataset.index
    seen = open_index(dataset.root, drawn.version, request.index_dir, data.ref)
    seen_by_model = replace(data, root=dataset.root).dataset(seen, dataset.row_numbers)
    return model_detector(
        load_model(settings, request.checkpoint),
        settings.system.postprocess,
        seen_by_model,
        drawn,
        score=request.score,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )


def make_pictures(request: PictureRequest) -> SamplePictures:
    """The samples that the request chooses, ready to be drawn at their native size."""
    if request.results is not None and request.results.is_file() and is_results(request.results):
        return result_pictures(request, request.results)
    experiment = read_experiment(request)
    data = experiment[1] if experiment is not None else None
    root = request.root or (data.root if data is not None else None)
    if root is None:
        raise UserError("--root is missing: expected the folder of a nuScenes-format database")
    version = request.version or (data.version if data is not None else "v1.0-mini")
    index = open_index(root, version, request.index_dir)
    rows = choose_rows(request, index, data.evaluation_split if data is not None else None)
    if request.augmented:
        return SamplePictures(
            source=DatabaseSource(dataset=augmented_samples(request, data, index, rows)),
            style=PictureStyle(camera_width=request.camera_width),
        )
    height, width = index.image_sizes[rows].max((0, 1)).tolist()
    dataset = NuScenesDataset(
        index, root=root, rows=rows, cameras=index.channels, image_size=(int(height), int(width))
    )
    return SamplePictures(
        source=DatabaseSource(
            dataset=dataset,
            detector=make_detector(request, experiment, dataset),
            with_lidar=request.lidar,
        ),
        with_queries=request.queries,
        style=PictureStyle(camera_width=request.camera_width),
    )


def augmented_samples(
    request: PictureRequest, data: NuScenesConfig | None, index: NuScenesIndex, rows: np.ndarray
) -> NuScenesDataset:
    """The chosen samples as training sees them in its first epoch."""
    if data is None or request.checkpoint is not None:
        raise UserError("--augmented needs --config, whose training it shows, and no --checkpoint")
    settings = replace(data, root=request.root or data.root, previous=None)
    return settings.dataset(index, rows, training=True)


def result_pictures(request: PictureRequest, path: Path) -> SamplePictures:
    """The frames of a result file that the request chooses; --root is where its images are."""
    for name in ("version", "split", "config", "checkpoint"):
        if getattr(request, name) is not None:
            raise UserError(f"--{name} means nothing for {path}, which has everything in it")
    scenes = [request.scene] if request.scene is not None else []
    results = choose_frames(read_results(path), scenes, None, request.root)
    rows = np.arange(len(results.frames))
    if request.sample is not None:
        rows = np.array([i for i in rows if results.frames[i].token == request.sample], dtype=int)
        if not len(rows):
            raise UserError(f"no frame {request.sample!r} in {path}")
    count = request.count if request.count or request.video else 4
    results = replace(results, frames=tuple(results.frames[i] for i in spread(rows, count)))
    return SamplePictures(
        source=ResultSource(results, score=request.score, with_lidar=request.lidar),
        style=PictureStyle(camera_width=request.camera_width, forward_yaw=results.forward),
    )


def spread(rows: np.ndarray, count: int | None) -> np.ndarray:
    """``count`` of the rows, evenly spread from the first to the last; all of them for None.

    Raises ValueError if there is no row or none is asked for.
    """
    if not len(rows):
        raise ValueError("there is no sample to draw")
    if count is None:
        return rows
    if count < 1:
        raise ValueError(f"the number of samples to draw must be at least 1, got {count}")
    kept = np.linspace(0, len(rows) - 1, min(count, len(rows)))
    return rows[kept.round().astype(int)]


def image_experiment(request: PictureRequest) -> Experiment | None:
    """The experiment of --config with --root applied, if its data are single images."""
    if request.config is None or not request.config.is_file():
        return None
    experiment = load_experiment(request.config)
    if not isinstance(experiment.data, CocoConfig | CocoPanopticConfig):
        return None
    usual = PictureRequest()
    for name in ("version", "scene", "split", "lidar", "video"):
        if getattr(request, name) != getattr(usual, name):
            raise UserError(f"--{name} means nothing for single images, as {request.config} has")
    root = request.root or experiment.data.root
    return replace(experiment, data=replace(experiment.data, root=root))


def draw_images(request: PictureRequest, experiment: Experiment) -> list[Path]:
    """Draw images of a 2D experiment's evaluation set, with what its model finds if asked."""
    dataset: Any = experiment.data.evaluation_set()
    rows = spread(np.arange(len(dataset)), request.count or 4)
    if request.sample is not None:
        if request.sample not in dataset.file.rows_by_token:
            raise UserError(f"no image {request.sample!r} in {dataset.file.path}")
        rows = np.array([dataset.file.rows_by_token[request.sample]])
    if request.results is not None and request.checkpoint is not None:
        raise UserError("detections come from --results or from --checkpoint, not from both")
    detector: Finder | None = None
    if request.results is not None:
        detector = read_coco_results(request.results, dataset.label_map)
    elif request.checkpoint is not None and request.config is not None:
        with naming_fitting_configs(request.config, request.checkpoint):
            detector = load_detector(experiment, request.checkpoint)
    return write_image_pictures(
        experiment.data, rows.tolist(), request.output_dir, detector=detector, score=request.score
    )


def answer(request: PictureRequest) -> list[Path]:
    """Draw what is asked for; returns the files. Raises UserError if that cannot be done."""
    with user_errors():
        images = image_experiment(request)
        if images is not None:
            return draw_images(request, images)
        pictures = make_pictures(request)
        if request.video:
            return write_scene_videos(pictures, request.output_dir, request.fps)
        return write_pictures(pictures, request.output_dir)
