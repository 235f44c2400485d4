"""From a wish to explain a box to the picture, for systems of 2D and 3D."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from det3d.data.nuscenes import NuScenesConfig, NuScenesDataset
from det3d.geometry import Region
from det3d.results.nuscenes import forward_yaw
from det3d.visualization.cameras import PictureStyle
from det3d.visualization.explain import draw_scene_explanation
from detr2d.config import Experiment
from detr2d.explain import Explanation, draw_image_explanation, explain
from detr2d.inference import load_model


@dataclass(frozen=True, kw_only=True)
class ExplainRequest:
    """Which box of which sample, and where the picture goes; see ``tools/explain.py``."""

    checkpoint: Path
    output: Path
    sample: str | None = None
    box: int = 0
    query: int | None = None
    camera_width: int = 480


def explain_to_file(experiment: Experiment, request: ExplainRequest) -> str:
    """Write the picture; returns a line about the box.

    Raises ValueError or FileNotFoundError if sample, box or weights are not there.
    """
    model = load_model(experiment, request.checkpoint)
    dataset: Any = experiment.data.evaluation_set()
    is_scene = isinstance(experiment.data, NuScenesConfig)
    batch = dataset[find_item(dataset, request.sample, is_scene)]
    explanation = explain(
        model, experiment.system.postprocess, batch, box=request.box, query=request.query
    )
    draw = draw_scene if is_scene else draw_image
    picture = draw(experiment, model, dataset, batch, explanation, request)
    request.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(request.output)
    return describe(explanation, experiment.data.class_names(), batch.tokens[0])


def describe(explanation: Explanation, classes: tuple[str, ...], token: str) -> str:
    """Class, score, query and sample of the explained box."""
    found = explanation.found
    name, score, query = classes[int(found.labels[0])], found.scores[0], found.queries[0]
    return f"{name} {float(score):.3f}, query {int(query)} of sample {token}"


def find_item(dataset: Any, token: str | None, is_scene: bool) -> int:
    """The item of the sample called ``token``, the first for None."""
    if token is None:
        return 0
    if not is_scene:
        if token not in dataset.file.rows_by_token:
            raise ValueError(f"no image {token!r} in {dataset.file.path}")
        return dataset.file.rows_by_token[token]
    row = dataset.index.rows_by_token.get(token)
    if row is None:
        raise ValueError(f"no sample {token!r} in {dataset.root}")
    items = np.flatnonzero(dataset.row_numbers == row)
    if not len(items):
        raise ValueError(f"sample {token} is not in the evaluation set")
    return int(items[0])


def draw_scene(
    experiment: Experiment,
    model: torch.nn.Module,
    dataset: NuScenesDataset,
    batch: Any,
    explanation: Explanation,
    request: ExplainRequest,
) -> np.ndarray:
    """The picture of a multi-camera system."""
    classes = experiment.data.class_names()
    region = getattr(model, "region", None)
    names = [c.removeprefix("CAM_").replace("_", " ").lower() for c in dataset.cameras]
    forward = forward_yaw(dataset.index.ego_from_ref[dataset.index.row(batch.tokens[0])])
    return draw_scene_explanation(
        batch,
        explanation,
        class_names=classes,
        camera_names=names,
        region=region if isinstance(region, Region) else None,
        style=PictureStyle(camera_width=request.camera_width, forward_yaw=forward),
    )


def draw_image(
    experiment: Experiment,
    model: torch.nn.Module,
    dataset: Any,
    batch: Any,
    explanation: Explanation,
    request: ExplainRequest,
) -> np.ndarray:
    """The picture of a single-image system."""
    height, width = batch.image_sizes[0].int().tolist()
    image = batch.images[0, :, :height, :width]
    canvas = (batch.images.shape[-2], batch.images.shape[-1])
    drawn = draw_image_explanation(image, explanation, experiment.data.class_names(), canvas)
    return drawn.permute(1, 2, 0).contiguous().numpy()
