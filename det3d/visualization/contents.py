"""What is drawn over a scene: objects, detections, lidar points and the ways of the queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from det3d.geometry import Region
from det3d.visualization.palette import WHITE, class_color
from detr2d.labels import Color
from detr2d.structures import Batch, Detections, Predictions, Targets

MATCH_DISTANCE = 2.0  # metres between centres on the ground, the benchmark's middle threshold


@dataclass(frozen=True)
class QueryTrails(Batch):
    """How N queries moved through the decoder and where they looked, in metres of the ref frame.

    references (L + 1, N, 3): the reference point into each layer and out of the last;
    samples (L, N, P, 3): where each layer sampled, or None; labels (N,) int64, for the colour.
    """

    references: Tensor
    samples: Tensor | None
    labels: Tensor


def query_trails(
    predictions: Predictions, detections: Detections, region: Region, *, scene: int = 0
) -> QueryTrails | None:
    """The trails of the queries behind ``detections`` of one scene of a batch.

    Their points are in the unit cube of ``region``. None if the system tells no references in 3D.
    """
    references, samples = predictions.references, predictions.sampling_points
    if references is None or references.shape[-1] != 3:
        return None
    queries = detections.queries
    chosen = None if samples is None else region.to_metres(samples[:, scene, queries].float())
    return QueryTrails(
        references=region.to_metres(references[:, scene, queries].float()),
        samples=chosen,
        labels=detections.labels,
    )


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything that is drawn over the images of one scene; boxes and points in the ref frame.

    lidar (N, 3 or more): points whose first three entries are x, y, z.
    """

    class_names: tuple[str, ...]
    ground_truth: Targets | None = None
    detections: Detections | None = None
    trails: QueryTrails | None = None
    lidar: Tensor | None = None


@dataclass(frozen=True)
class BoxLayer:
    """Boxes (N, 9) that are drawn alike, with a colour and texts each, most important first.

    ``short_texts`` are for boxes that look small, whose class the colour must tell. A box whose
    text is empty gets no label.
    """

    boxes: np.ndarray
    colors: tuple[Color, ...]
    texts: tuple[str, ...]
    short_texts: tuple[str, ...]
    is_reference: bool
    """Drawn thin, dashed and white: what the detections are compared with."""


def box_layers(contents: Contents) -> tuple[BoxLayer, ...]:
    """Ground truth and detections in drawing order.

    Beside detections the ground truth is the white reference, and only objects without a detection
    of their class within ``MATCH_DISTANCE`` are named; alone it has the class colours and names.
    """
    truth, found, names = contents.ground_truth, contents.detections, contents.class_names
    layers = []
    if truth is not None and found is None:
        layers.append(truth_layer(truth, names))
    elif truth is not None and found is not None:
        layers.append(reference_layer(truth, found, names))
    if found is not None:
        layers.append(detection_layer(found, names))
    return tuple(layers)


def truth_layer(truth: Targets, names: Sequence[str]) -> BoxLayer:
    """Ground truth that is looked at for itself."""
    labels = truth.labels.tolist()
    texts = tuple(readable(names[label]) for label in labels)
    colors = tuple(class_color(label) for label in labels)
    return BoxLayer(to_array(truth.boxes), colors, texts, ("",) * len(labels), False)


def reference_layer(truth: Targets, found: Detections, names: Sequence[str]) -> BoxLayer:
    """Ground truth that detections are compared with; what they missed is named."""
    texts = tuple(
        readable(names[label]) if is_missed else ""
        for label, is_missed in zip(truth.labels.tolist(), missed(truth, found), strict=True)
    )
    return BoxLayer(to_array(truth.boxes), (WHITE,) * len(truth), texts, texts, True)


def detection_layer(found: Detections, names: Sequence[str]) -> BoxLayer:
    """Detections by class and score."""
    labels, scores = found.labels.tolist(), [f"{score:.2f}" for score in found.scores.tolist()]
    texts = tuple(f"{readable(names[k])} {score}" for k, score in zip(labels, scores, strict=True))
    short = tuple(score.removeprefix("0") for score in scores)
    colors = tuple(class_color(label) for label in labels)
    return BoxLayer(to_array(found.boxes), colors, texts, short, False)


def missed(truth: Targets, found: Detections) -> list[bool]:
    """Tell for each object whether no detection of its class has its centre near on the ground."""
    distances = torch.cdist(truth.boxes[:, :2].double(), found.boxes[:, :2].double())
    near = (distances < MATCH_DISTANCE) & (truth.labels.unsqueeze(1) == found.labels)
    return (~near.any(1)).tolist()


def readable(name: str) -> str:
    """A class name as words."""
    return name.replace("_", " ")


def to_array(tensor: Tensor) -> np.ndarray:
    """The values in float64 on the CPU."""
    return tensor.detach().to("cpu", torch.float64).numpy()
