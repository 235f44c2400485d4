"""A complete experiment that trains in milliseconds: a linear model regresses points."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from detr2d.config import DataConfig, Experiment, Report, SystemConfig, TrainConfig
from detr2d.structures import Batch, Detections, Predictions, Targets

CONFIG = """
from pathlib import Path
from tests.helpers.toy_experiment import PointData, PointSystem
from detr2d.config import Experiment, TrainConfig

experiment = Experiment(
    system=PointSystem(),
    data=PointData(root=Path({root!r})),
    train=TrainConfig(epochs=2, batch_size=4, lr=0.01, warmup_steps=2, workers=0, log_every=2),
    work_dir=Path({work_dir!r}),
)
"""


def write_config(folder: Path) -> Path:
    """Write data and config into ``folder`` and return the config's path."""
    make_experiment(folder)
    config = folder / "config.py"
    config.write_text(CONFIG.format(root=str(folder / "data"), work_dir=str(folder / "run")))
    return config


def make_experiment(folder: Path, **train: Any) -> Experiment:
    """An experiment on data written into ``folder / "data"``, running in ``folder / "run"``."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "points.json").write_text(json.dumps({"count": 22}))
    settings = {"epochs": 3, "batch_size": 4, "lr": 0.01, "warmup_steps": 2, "workers": 0}
    return Experiment(
        system=PointSystem(),
        data=PointData(root=folder / "data"),
        train=TrainConfig(**{**settings, "log_every": 2, **train}),  # type: ignore[arg-type]
        work_dir=folder / "run",
    )


@dataclass(frozen=True)
class PointBatch(Batch):
    """inputs (B, 3), one target box (1, 2) each."""

    inputs: Tensor
    targets: tuple[Targets, ...]
    tokens: tuple[str, ...]


class Points(Dataset):
    """Inputs drawn by (seed, epoch, index); their targets are a fixed linear map of them."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> PointBatch:
        generator = torch.Generator().manual_seed(1_000_000 * self.seed + 1000 * self.epoch + index)
        inputs = torch.randn(1, 3, generator=generator)
        boxes = inputs[:, :2] * 2 - inputs[:, 2:]
        targets = Targets(labels=torch.zeros(1, dtype=torch.int64), boxes=boxes)
        return PointBatch(inputs, (targets,), (f"point{index}",))


class PointEvaluator:
    """Mean distance between detections and the truth."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir

    def format(self, batch: PointBatch, detections: list[Detections]) -> dict[str, Any]:
        return {
            token: float((found.boxes[0] - target.boxes[0]).norm())
            for token, found, target in zip(batch.tokens, detections, batch.targets, strict=True)
        }

    def summarize(self, results: dict[str, Any]) -> Report:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / "results.json").write_text(json.dumps(results))
        distance = sum(results.values()) / len(results)
        return Report({"distance": distance}, f"distance {distance:.4f} over {len(results)}")


@dataclass(frozen=True, kw_only=True)
class PointData(DataConfig):
    """Random points on the fly."""

    root: Path
    """Folder with points.json."""
    spread: float = 1.0
    """Not used; a setting to change."""

    def class_names(self) -> tuple[str, ...]:
        return ("point",)

    def training_set(self, seed: int) -> Points:
        file = self.root / "points.json"
        if not file.exists():
            raise FileNotFoundError(f"data.root {self.root} holds no points.json")
        return Points(json.loads(file.read_text())["count"], seed)

    def evaluation_set(self) -> Points:
        return Points(7, 99)

    def collate(self, samples: list[Any]) -> PointBatch:
        return PointBatch(
            torch.cat([sample.inputs for sample in samples]),
            tuple(target for sample in samples for target in sample.targets),
            tuple(token for sample in samples for token in sample.tokens),
        )

    def evaluator(self, output_dir: Path) -> PointEvaluator:
        return PointEvaluator(output_dir)


class PointModel(nn.Module):
    """Dropout makes the outputs depend on the random state of each step."""

    def __init__(
        self,
        width: int,
        dropout: float,
        poison: str = "",
        spoil: str = "term",
        norm: str = "layer",
    ) -> None:
        super().__init__()
        self.poison, self.spoil = poison, spoil
        self.backbone = nn.Linear(3, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width) if norm == "layer" else nn.BatchNorm1d(width)
        self.query = nn.Embedding(1, width)
        self.head = nn.Linear(width, 2)

    def forward(self, batch: PointBatch) -> Predictions:
        hidden = self.dropout(self.backbone(batch.inputs)) + self.query.weight
        codes = self.head(hidden) + 0 * self.head(self.norm(hidden))
        if self.poison in batch.tokens:
            nan = codes.new_tensor([1.0, float("nan")])
            codes = {
                "term": codes + (nan - 1),
                "factor": codes * nan,
                "slope": codes + (0 * codes).sqrt(),  # 0, with an infinite derivative
            }[self.spoil]
        codes = codes[None, :, None]  # (L, B, Q, D)
        return Predictions(logits=torch.zeros_like(codes[..., :1]), codes=codes)


@dataclass(frozen=True, kw_only=True)
class PointSystem(SystemConfig):
    """A linear regression."""

    width: int = 8
    """Hidden channels."""
    dropout: float = 0.0
    """Share of hidden channels dropped in training."""
    poison: str = ""
    """Token of a sample for which y is not a number."""
    spoil: Literal["term", "factor", "slope"] = "term"
    """Make y so by a term; by a factor, which ruins the gradients too; or ruin only these."""
    norm: Literal["layer", "batch"] = "layer"
    """A norm with running statistics, or without."""

    def build(self, classes: tuple[str, ...]) -> PointModel:
        return PointModel(self.width, self.dropout, self.poison, self.spoil, self.norm)

    def build_criterion(self, classes: tuple[str, ...]) -> PointCriterion:
        return PointCriterion()

    def postprocess(self, predictions: Predictions) -> list[Detections]:
        return [
            Detections(
                scores=torch.ones(1),
                labels=torch.zeros(1, dtype=torch.int64),
                boxes=codes,
                queries=torch.zeros(1, dtype=torch.int64),
            )
            for codes in predictions.codes[-1]
        ]


class PointCriterion:
    """Squared error of x and y as two terms."""

    def __call__(self, predictions: Predictions, targets: tuple[Targets, ...]) -> dict[str, Tensor]:
        boxes = torch.cat([target.boxes for target in targets])
        errors = (predictions.codes[-1, :, 0] - boxes).square().mean(0)
        return {"x": errors[0], "y": errors[1]}
