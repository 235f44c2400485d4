"""One experiment is one frozen, typed value: what is built, on what data, trained how.

A config file is Python that binds ``experiment`` to an ``Experiment``; there is no registry and no
string that names a class. ``parse_experiment`` reads such a file and applies the command line to
it; the resolved value is saved as JSON beside every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from torch.utils.data import Dataset

from detr2d.structures import Batch, Detections, Predictions


class Criterion(Protocol):
    """Matches predictions to targets and returns the weighted losses by name."""

    def __call__(self, predictions: Predictions, targets: Any) -> dict[str, Tensor]:
        """Weighted scalar losses; their sum is trained."""


@dataclass(frozen=True)
class Report:
    """What an evaluation says: headline ``metrics`` by name, and ``table`` for people to read."""

    metrics: dict[str, float]
    table: str


class Evaluator(Protocol):
    """Judges detections of an evaluation set with the official code."""

    def format(self, batch: Any, detections: list[Detections]) -> dict[str, Any]:
        """Picklable results of one batch by sample token, in the official result format.

        Pure: the engine calls it on every process and merges the dictionaries by token.
        """

    def summarize(self, results: dict[str, Any]) -> Report:
        """Write the result files and run the official evaluation on exactly these samples."""


@dataclass(frozen=True, kw_only=True)
class SystemConfig:
    """A published system: its settings and the one place that turns them into modules."""

    def build(self, classes: tuple[str, ...]) -> nn.Module:
        """Build the model: ``model(batch) -> Predictions``."""
        raise NotImplementedError

    def build_criterion(self, classes: tuple[str, ...]) -> Criterion:
        """Build the set criterion that trains it."""
        raise NotImplementedError

    def postprocess(self, predictions: Predictions) -> list[Detections]:
        """Turn predictions into final detections, one entry per image or scene."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data is and how it is prepared."""

    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes in label order."""
        raise NotImplementedError

    def training_set(self, seed: int) -> Dataset:
        """Samples for training; item i may also be asked as (epoch, i) for fresh augmentation."""
        raise NotImplementedError

    def evaluation_set(self) -> Dataset:
        """Samples for evaluation, each once."""
        raise NotImplementedError

    def collate(self, samples: list[Any]) -> Batch:
        """Join samples to one batch."""
        raise NotImplementedError

    def evaluator(self, output_dir: Path) -> Evaluator:
        """A fresh evaluator that writes its files to ``output_dir``."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation, precision, logging and checkpoints."""

    epochs: int = 24
    """Passes over the training set."""
    batch_size: int = 1
    """Samples per process and micro-batch."""
    accumulate: int = 1
    """Micro-batches per optimizer step."""
    lr: float = 2e-4
    """Peak learning rate of everything but the backbone."""
    backbone_lr_factor: float = 0.1
    """The backbone's learning rate is lr times this."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay; norms, biases and embeddings are left out."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup_steps: int = 500
    """Optimizer steps of linear warm-up."""
    step_epochs: tuple[int, ...] = ()
    """Epochs at which the step schedule divides the rate by ten."""
    clip_norm: float = 35.0
    """Largest gradient norm; 0 switches clipping off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the model under autocast; geometry, matching and losses stay float32."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that are evaluated; 0 switches them off."""
    workers: int = 2
    """Data loading processes per training process."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""
    log_every: int = 20
    """Optimizer steps between log lines."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    keep_checkpoints: int = 2
    """How many training states to keep."""
    threads: int = 0
    """CPU threads of torch per process; 0 leaves torch's own choice."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a run depends on."""

    system: SystemConfig
    data: DataConfig
    train: TrainConfig = TrainConfig()
    work_dir: Path = Path("outputs/run")
    """Where logs, checkpoints, results and the data index go."""
