"""Does a score come from geometry? A detector must fail without training or with wrong cameras."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from det3d.data.nuscenes import NuScenesConfig
from det3d.structures import SceneBatch
from detr2d.checkpoints.files import Origin, export_weights
from detr2d.config import Experiment, UserError, to_json
from detr2d.inference import evaluate


class WrongCameras(Dataset[SceneBatch]):
    """Samples whose images are told to come from the next camera of the rig."""

    def __init__(self, dataset: Dataset[SceneBatch]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, item: int) -> SceneBatch:
        scene = self.dataset[item]
        order = [*range(1, scene.rig.num_cameras), 0]
        return replace(scene, rig=scene.rig.select(order))


@dataclass(frozen=True, kw_only=True)
class WrongCamerasConfig(NuScenesConfig):
    """A database that is evaluated with the calibration of other cameras."""

    def evaluation_set(self) -> Dataset[SceneBatch]:  # type: ignore[override]
        """Samples of the evaluation split with turned calibration."""
        return WrongCameras(super().evaluation_set())


def check_leaks(experiment: Experiment, checkpoint: Path, output_dir: Path) -> dict[str, float]:
    """Official mAP of trained weights, of untrained ones, and with the cameras mixed up.

    Raises UserError for data that is no nuScenes-format database.
    """
    data = experiment.data
    if not isinstance(data, NuScenesConfig):
        raise UserError("cameras can only be mixed up in a nuScenes-format database")
    settings = {f.name: getattr(data, f.name) for f in fields(data)}
    wrong = replace(experiment, data=WrongCamerasConfig(**settings))
    untrained = output_dir / "untrained.safetensors"
    classes = data.class_names()
    torch.manual_seed(experiment.train.seed)
    state = experiment.system.build(classes).state_dict()
    output_dir.mkdir(parents=True, exist_ok=True)
    export_weights(untrained, state, Origin(to_json(experiment), classes))
    runs = {
        "trained weights": (experiment, checkpoint),
        "untrained weights": (experiment, untrained),
        "calibration of the next camera": (wrong, checkpoint),
    }
    return {
        name: evaluate(settings, weights, output_dir / name.replace(" ", "_")).metrics["mAP"]
        for name, (settings, weights) in runs.items()
    }


def format_leaks(scores: dict[str, float]) -> str:
    """A line for each run: its name and mAP."""
    width = max(map(len, scores))
    return "\n".join(f"{name:{width}}  mAP {score:.4f}" for name, score in scores.items())
