"""A 2D system that always finds the same boxes: for testing what stands around a system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from detr2d.checkpoints.files import Origin, export_weights
from detr2d.config import Experiment, SystemConfig, to_json
from detr2d.data.coco import CocoConfig
from detr2d.data.transforms import scaled_resolution
from detr2d.structures import Detections, ImageBatch, Predictions

BOXES = ((0.25, 0.5, 0.5, 1.0), (0.75, 0.75, 0.25, 0.5))
SCORES = (0.9, 0.2)


class FixedBoxes(nn.Module):
    """The same normalised boxes for every image; they are its only weights."""

    boxes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.boxes = nn.Parameter(torch.tensor(BOXES))

    def forward(self, batch: ImageBatch) -> Predictions:
        """Two queries, the first of label 1, the second of label 0."""
        logits = torch.tensor([[-9.0, SCORES[0]], [SCORES[1], -9.0]]).logit(eps=1e-6)
        shape = (1, len(batch), 2, -1)
        return Predictions(logits.expand(shape), self.boxes.expand(shape))


@dataclass(frozen=True, kw_only=True)
class FixedBoxesConfig(SystemConfig):
    """Nothing to set."""

    def build(self, classes: tuple[str, ...]) -> nn.Module:
        """The module, whatever the classes."""
        return FixedBoxes()

    def postprocess(self, predictions: Predictions) -> list[Detections]:
        """Both queries."""
        labels, queries = torch.tensor([1, 0]), torch.arange(2)
        return [
            Detections(torch.tensor(SCORES), labels, boxes, queries)
            for boxes in predictions.codes[-1]
        ]


def write_fixed_boxes(root: Path, work_dir: Path) -> tuple[Experiment, Path]:
    """An experiment on the tiny COCO data set in ``root``, and its exported weights."""
    data = CocoConfig(
        root=root,
        training_images="images",
        training_annotations="instances.json",
        evaluation_images="images",
        evaluation_annotations="instances.json",
        resolution=scaled_resolution(64),
    )
    experiment = Experiment(system=FixedBoxesConfig(), data=data, work_dir=work_dir)
    path = work_dir / "model.safetensors"
    work_dir.mkdir(parents=True, exist_ok=True)
    origin = Origin(to_json(experiment), data.class_names())
    export_weights(path, FixedBoxes().state_dict(), origin)
    return experiment, path
