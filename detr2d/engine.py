"""The training loop shared by both worlds: alone or under torchrun, resumable bit for bit.

Exact resume rests on three rules: samples and their augmentation are a function of (seed, epoch,
index); the random state of each optimizer step is a function of (seed, step, process); learning
rates are a function of the step. A training state therefore holds no generator states.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from detr2d.checkpoints.convert import start_from
from detr2d.checkpoints.files import (
    WEIGHTS_FILE,
    Origin,
    export_weights,
    list_states,
    load_state,
    save_state,
)
from detr2d.config import (
    Experiment,
    UserError,
    describe_difference,
    to_json,
    user_errors,
)
from detr2d.inference import join_processes, with_precision
from detr2d.log import RunLog, Window
from detr2d.optim import Schedule, average_weights, build_optimizer, train_only
from detr2d.validation import Validation


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for one of several processes, in the order of (seed, epoch).

    The processes take turns in one shuffled order, so all of them together see the same samples in
    a step as one process with a batch as large. The order wraps around to give every process as
    many samples. ``start_at`` chooses the epoch and the first batch of the next iteration.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, seed: int, process: int = 0, processes: int = 1
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.process, self.processes = process, processes
        self.epoch = self.first_batch = 0

    def start_at(self, epoch: int, first_batch: int) -> None:
        """Let the next iteration give ``epoch`` from its batch ``first_batch`` on."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        return math.ceil(self.num_samples / (self.batch_size * self.processes))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
        order = torch.randperm(self.num_samples, generator=generator).tolist()
        size = math.ceil(self.num_samples / self.processes) * self.processes
        own = list(itertools.islice(itertools.cycle(order), size))[self.process :: self.processes]
        for first in range(self.first_batch * self.batch_size, len(own), self.batch_size):
            yield [(self.epoch, index) for index in own[first : first + self.batch_size]]


class EpochDataset(Dataset):
    """A dataset asked as (epoch, index): tells it the epoch, in whichever process it lives."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.epoch = dataset, -1

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        if epoch != self.epoch and hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        self.epoch = epoch
        return self.dataset[index]


def mix_seed(*numbers: int) -> int:
    """A 63-bit seed from a few non-negative numbers; neighbours give unrelated seeds."""
    mixed = 0
    for number in numbers:
        mixed = (mixed ^ number) * 0x9E3779B97F4A7C15 % 2**64
        mixed = (mixed ^ (mixed >> 31)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed ^= mixed >> 29
    return mixed >> 1


class Training:
    """One run: everything built from the experiment, and the number of steps done."""

    def __init__(self, experiment: Experiment) -> None:
        train = experiment.train
        self.experiment, self.accelerator, self.step = experiment, join_processes(), 0
        device = self.accelerator.device
        with user_errors():
            dataset = experiment.data.training_set(train.seed)
            classes = experiment.data.class_names()
        if not len(dataset):  # type: ignore[arg-type]
            raise UserError("the training set has no samples")
        self.origin = Origin(to_json(experiment), classes)
        self.order = EpochBatches(
            len(dataset),  # type: ignore[arg-type]
            train.batch_size,
            seed=train.seed,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        self.loader = DataLoader(
            EpochDataset(dataset),
            batch_sampler=self.order,
            num_workers=train.workers,
            persistent_workers=train.workers > 0,
            collate_fn=experiment.data.collate,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else each iterator draws from the global generator
        )
        torch.manual_seed(mix_seed(train.seed))  # all processes start from the same weights
        with user_errors():
            self.bare_model = experiment.system.build(classes).to(device).train()
            self.criterion = experiment.system.build_criterion(classes)
            train_only(self.bare_model, train.only)
            if train.start_from:
                said = start_from(self.bare_model, train.start_from, classes, new=train.only)
                self.accelerator.print(said)
        if isinstance(self.criterion, nn.Module):
            self.criterion.to(device)
        self.schedule = Schedule(train, math.ceil(len(self.order) / train.accumulate))
        self.validation = Validation(
            experiment, self.accelerator, steps_per_epoch=self.schedule.steps_per_epoch
        )
        self.average = (
            average_weights(self.bare_model, train.ema_decay) if train.ema_decay else None
        )
        self.wrapped, self.optimizer = self.accelerator.prepare(
            self.bare_model, build_optimizer(self.bare_model, train)
        )
        self.model = with_precision(self.wrapped, train.precision, device)

    def groups(self, last_step: int) -> Iterator[list[Any]]:
        """Micro-batches of each optimizer step up to ``last_step``, on the CPU."""
        accumulate = self.experiment.train.accumulate
        while self.step < last_step:
            epoch, done = divmod(self.step, self.schedule.steps_per_epoch)
            self.order.start_at(epoch, done * accumulate)
            loader = iter(self.loader)
            while self.step < last_step and (group := list(itertools.islice(loader, accumulate))):
                yield group

    def update(self, group: list[Any]) -> dict[str, Tensor]:
        """One optimizer step on micro-batches; mean of each loss, their sum and gradient norm."""
        train, accelerator = self.experiment.train, self.accelerator
        torch.manual_seed(mix_seed(train.seed, self.step, accelerator.process_index))
        self.schedule.apply(self.optimizer, self.step)
        means: dict[str, Tensor] = {}
        for position, batch in enumerate(group, start=1):
            batch = batch.to(accelerator.device, non_blocking=True)
            last = position == len(group)
            with contextlib.nullcontext() if last else accelerator.no_sync(self.wrapped):
                predictions = self.model(batch)
                losses = self.criterion(predictions, batch.targets)
                loss = torch.stack(list(losses.values())).sum() / len(group)
                accelerator.backward(loss)
            with torch.no_grad():
                logged = self.experiment.system.statistics(predictions, batch.targets)
            for name, value in {**losses, "loss": loss * len(group), **logged}.items():
                means[name] = means.get(name, 0) + value.detach() / len(group)
        norm = accelerator.clip_grad_norm_(self.wrapped.parameters(), train.clip_norm or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.bare_model)
        self.step += 1
        return {**means, "grad_norm": norm}

    def save(self) -> None:
        """Write the training state and the exported weights, on the main process."""
        if self.accelerator.is_main_process:
            experiment, work_dir = self.experiment, self.experiment.work_dir
            state = {
                "model": self.bare_model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "steps_per_epoch": self.schedule.steps_per_epoch,
            }
            keep = experiment.train.keep_checkpoints
            save_state(work_dir, self.step, state, self.origin, keep)
            self.export()
        self.accelerator.wait_for_everyone()

    @property
    def best_model(self) -> nn.Module:
        """The model to use: with averaged weights, if there are any."""
        return self.bare_model if self.average is None else self.average.module

    def export(self) -> Path:
        """Write the weights to use and return their path."""
        path = self.experiment.work_dir / WEIGHTS_FILE
        export_weights(path, self.best_model.state_dict(), self.origin)
        return path

    def restore(self, path: Path) -> None:
        """Continue from a training state. Raises UserError if it is of another system or data."""
        with user_errors():
            state, origin = load_state(path)
        changed = describe_difference(origin.config, self.origin.config)
        if any(line.startswith("system.") for line in changed) or (
            origin.classes != self.origin.classes
        ):
            raise UserError(f"{path} is of another system: " + "; ".join(changed))
        if state["steps_per_epoch"] != self.schedule.steps_per_epoch:
            raise UserError(
                f"{path} is of a run of {state['steps_per_epoch']} steps per epoch, "
                f"now it would be {self.schedule.steps_per_epoch}: keep the training set and "
                "train.batch_size × train.accumulate × processes"
            )
        if changed:
            self.accelerator.print("resuming with changed settings: " + "; ".join(changed))
        self.bare_model.load_state_dict(state["model"])
        # Rates and decays are settings: the experiment's count, not those of the stopped run.
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        if self.average is not None and state["average"] is None:
            self.average.module.load_state_dict(state["model"])
        elif self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step = state["step"]


def fit(experiment: Experiment, *, resume: bool = False, stop_after: int | None = None) -> Path:
    """Train and return the path of the exported weights, ``work_dir / "model.safetensors"``.

    ``resume`` continues from the newest training state, or starts if there is none; ``stop_after``
    saves and returns once so many optimizer steps are done in all. Raises UserError for missing
    data, for a work directory that holds another run, and for a state that does not fit;
    FloatingPointError if a loss is not finite.
    """
    train, work_dir = experiment.train, experiment.work_dir
    states = list_states(work_dir)
    if states and not resume:
        raise UserError(
            f"{work_dir} already holds a run ({states[-1].name}): continue it with --resume, "
            "or choose another --work-dir"
        )
    if train.threads:
        torch.set_num_threads(train.threads)
    training = Training(experiment)
    if states:
        training.restore(states[-1])
    num_steps = training.schedule.num_steps
    log = RunLog(
        work_dir,
        first_step=training.step,
        num_steps=num_steps,
        enabled=training.accelerator.is_main_process,
    )
    try:
        _train(training, log, num_steps if stop_after is None else min(stop_after, num_steps))
    finally:
        log.close()
    if training.accelerator.is_main_process:
        training.export()
    training.accelerator.wait_for_everyone()
    return work_dir / WEIGHTS_FILE


def _train(training: Training, log: RunLog, last_step: int) -> None:
    """Step, log, judge and save until ``last_step`` steps are done."""
    train = training.experiment.train
    save_every = train.checkpoint_every * training.schedule.steps_per_epoch
    window, waiting = Window(), time.perf_counter()
    for group in training.groups(last_step):
        window.data_seconds += time.perf_counter() - waiting
        values = training.update(group)
        tokens = tuple(token for batch in group for token in getattr(batch, "tokens", ()))
        window.add(training.step, values, tokens)
        log.advance()
        save = training.step % save_every == 0 or training.step == last_step
        due = training.validation.due(training.step)
        if save or due or training.step % train.log_every == 0:
            _write_window(training, log, window)  # raises before a broken state could be saved
            if due:
                log.write(training.validation.record(training.best_model, training.step))
            if save:
                training.save()
            window = Window()
        waiting = time.perf_counter()


def _write_window(training: Training, log: RunLog, window: Window) -> None:
    """One log line with the means over the window and over the processes."""
    steps, seconds = len(window.steps), time.perf_counter() - window.started
    means = {
        **window.means(),
        "data_time": window.data_seconds / steps,
        "step_time": seconds / steps,
    }
    parts = gather_object([means])
    means = {name: sum(part[name] for part in parts) / len(parts) for name in means}
    heads = ("loss", "grad_norm", "data_time", "step_time")
    log.write(
        {
            "step": training.step,
            "epoch": round(training.step / training.schedule.steps_per_epoch, 4),
            "lr": max(group["lr"] for group in training.optimizer.param_groups),
            **{name: means[name] for name in heads},
            "losses": {name: value for name, value in means.items() if name not in heads},
        }
    )
