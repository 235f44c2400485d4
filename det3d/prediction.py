"""A trained multi-camera detector on any rig: a file of cameras and images in, detections out.

The file is in our result format (docs/results_format.md), with or without objects; no database and
no dataset package is needed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from det3d.data.framing import frame_image, frame_rig
from det3d.data.nuscenes import NuScenesConfig
from det3d.results.format import Category, Objects, Results, read_results, write_results
from det3d.results.geometry import Array, invert_transform, transform_boxes
from det3d.results.nuscenes import CATEGORIES
from det3d.structures import SceneBatch
from det3d.visualization.result_source import ResultSource
from detr2d.config import Experiment
from detr2d.prediction import load_detector
from detr2d.structures import Detections, stack_images

RESULTS_FILE = "results.json"
MOST_TURNED = 0.5  # radians between the file's forward and that of the frame a model knows


def predict_results(
    experiment: Experiment, checkpoint: Path, path: Path, output_dir: Path, *, score: float
) -> Path:
    """Run on every frame of a result file; write it with detections of at least ``score``.

    Returns the written file, ``results.json`` in ``output_dir``. Raises FileNotFoundError or
    ValueError for a file, images or a rig that do not suit the model.
    """
    data = experiment.data
    if not isinstance(data, NuScenesConfig):
        raise ValueError(f"expected a multi-camera config, its data is {type(data).__name__}")
    results = read_results(path)
    check_frame(results, data, path)
    classes = fitting_classes(results, data.class_names(), path)
    detector = load_detector(experiment, checkpoint)
    names = model_cameras(results, data.cameras, path)
    source = ResultSource(results, score=0, with_lidar=False, names=names)
    frames = []
    for frame in tqdm(results.frames, "predict", unit="frame", dynamic_ncols=True):
        ref_from_model = invert_transform(frame.ego_from_ref) if data.ref == "ego" else np.eye(4)
        found = detector(framed_scene(source.scene(frame), data, ref_from_model), score)[0]
        frames.append(replace(frame, detections=as_objects(found, ref_from_model)))
    target = output_dir / RESULTS_FILE
    write_results(target, replace(results, classes=classes, frames=tuple(frames)))
    return target


def check_frame(results: Results, data: NuScenesConfig, path: Path) -> None:
    """Raise ValueError if the file's frames of reference or moments are not what a model needs."""
    if data.previous is not None:
        raise ValueError(
            "systems that also look at an earlier frame (data.previous) need a database: "
            "tools/evaluate.py runs them"
        )
    turned = math.remainder(results.forward - math.pi / 2, 2 * math.pi)
    if data.ref == "lidar" and abs(turned) > MOST_TURNED:
        raise ValueError(
            f"{path}: forward is {results.forward:.2f} in ref, but the model was trained in a "
            "frame like nuScenes' LIDAR_TOP, where the car looks along +y (1.57)"
        )


def fitting_classes(results: Results, names: tuple[str, ...], path: Path) -> tuple[Category, ...]:
    """The file's classes if they are the model's, or the model's if the file has no objects."""
    if results.names == names:
        return results.classes
    if any(frame.ground_truth is not None for frame in results.frames):
        raise ValueError(
            f"{path} has ground truth of the classes {', '.join(results.names)}; "
            f"the model finds {', '.join(names)}"
        )
    ranges = {category.name: category.range for category in CATEGORIES}
    return tuple(Category(name, ranges.get(name)) for name in names)


def model_cameras(results: Results, wanted: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """Names of the cameras in the model's order: the config's if the file has any of them.

    Those that a frame lacks are absent; a file of another rig is taken as it is. Raises ValueError
    for a file with some of the config's cameras and others.
    """
    names = tuple(dict.fromkeys(c.name for frame in results.frames for c in frame.cameras))
    known, others = set(wanted) & set(names), [name for name in names if name not in wanted]
    if known and others:
        raise ValueError(
            f"{path} has the cameras {', '.join(others)}, which data.cameras does not name: "
            f"name them there, or call none of them as it does ({', '.join(wanted)})"
        )
    return wanted if known else names


def framed_scene(native: SceneBatch, data: NuScenesConfig, ref_from_model: Array) -> SceneBatch:
    """A scene at its native size as the config frames it, its rig in the model's frame."""
    sizes = native.rig.image_sizes[0].int().tolist()
    windows = [data.framing.window((h, w), data.image_size, None) for h, w in sizes]
    images = [
        frame_image(image[:, :height, :width], window)
        for image, (height, width), window in zip(native.images[0], sizes, windows, strict=True)
    ]
    rig = frame_rig(native.rig, windows).moved(torch.tensor(ref_from_model).float())
    canvas = stack_images(images, data.size_divisor)
    return SceneBatch(canvas.unsqueeze(0), rig, native.tokens)


def as_objects(found: Detections, ref_from_model: Array) -> Objects:
    """Detections as objects in the file's frame."""
    boxes = transform_boxes(ref_from_model, found.boxes.double().numpy())
    return Objects(boxes, found.labels.numpy(), found.scores.double().numpy())
