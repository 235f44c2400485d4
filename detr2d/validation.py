"""Judging a run while it trains: official figures of the evaluation set over the steps."""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from detr2d.config import Experiment, UserError, user_errors
from detr2d.inference import judge
from detr2d.processes import share
from detr2d.sharding import gathered, is_cut

PER_CLASS = ("AP/", "PQ/")  # parts of names of figures that a log has no room for


class Validation:
    """Judges the weights of a run after every ``train.evaluate_every`` epochs and at its end.

    The same evaluation as ``tools/evaluate.py``'s, on a copy of the weights: training goes on as if
    nothing had happened. Result files of the latest one are in ``work_dir / "validation"``. Raises
    UserError, before training begins, if the evaluation set is missing or empty.
    """

    def __init__(
        self, experiment: Experiment, accelerator: Accelerator, *, steps_per_epoch: int
    ) -> None:
        train = experiment.train
        self.experiment, self.accelerator = experiment, accelerator
        self.steps_per_epoch = steps_per_epoch
        self.every = train.evaluate_every * steps_per_epoch
        self.last_step = train.epochs * steps_per_epoch
        if not self.every:
            return
        with user_errors():
            self.dataset = experiment.data.evaluation_set()
        if not len(self.dataset):  # type: ignore[arg-type]
            raise UserError("train.evaluate_every needs an evaluation set, and it has no samples")

    def due(self, step: int) -> bool:
        """Whether the weights are to be judged after ``step`` optimizer steps."""
        return self.every > 0 and (step % self.every == 0 or step == self.last_step)

    def record(self, model: nn.Module, step: int) -> dict[str, Any]:
        """The log line after ``step``: the headline figures of the model, under ``metrics``.

        To be called by all processes; the random states stay as they are.
        """
        device = self.accelerator.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            report = judge(
                self.experiment,
                self.copy(model),
                self.dataset,
                output_dir=self.experiment.work_dir / "validation",
                accelerator=self.accelerator,
            )
        return {
            "step": step,
            "epoch": round(step / self.steps_per_epoch, 4),
            "metrics": headline(report.metrics),
        }

    def copy(self, model: nn.Module) -> nn.Module:
        """A whole copy of the model, with the main process's running statistics in all of them."""
        if is_cut(model):
            built = self.experiment.system.build(self.experiment.data.class_names())
            built.load_state_dict(gathered(model.state_dict()))
            model = built.to(self.accelerator.device)
        else:
            model = copy.deepcopy(model)
        share(model.buffers(), self.accelerator)
        return model


def headline(metrics: dict[str, float]) -> dict[str, float]:
    """The figures over all classes, those of single classes left out."""
    return {
        name: value
        for name, value in metrics.items()
        if not any(part in name for part in PER_CLASS)
    }
