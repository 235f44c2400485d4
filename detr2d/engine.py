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
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader

from detr2d.accumulation import step_shares
from detr2d.checkpoints.convert import start_from
from detr2d.checkpoints.files import (
    WEIGHTS_FILE,
    Origin,
    export_weights,
    list_states,
    load_state,
    newest_whole_state,
    save_state,
)
from detr2d.config import (
    Experiment,
    UserError,
    describe_difference,
    to_json,
    user_errors,
)
from detr2d.data.order import EpochBatches, EpochDataset, mix_seed
from detr2d.host import set_up_host
from detr2d.inference import join_processes, with_precision
from detr2d.log import RunLog, Window, restore_window
from detr2d.nonfinite import RunningStatistics, first_not_finite, read_numbers, save_replay
from detr2d.optim import Schedule, average_weights, build_optimizer, train_only
from detr2d.processes import any_process, share
from detr2d.sharding import cut_optimizer_state, gathered, load_gathered, shard, whole
from detr2d.stopping import Stopped, StopRequest, signals_held
from detr2d.validation import Validation


class Training:
    """One run: everything built from the experiment, and the number of steps done.

    Beside them the steps skipped since a number was not finite, the measurements since the last log
    line, and whether a signal asked any process to stop.
    """

    def __init__(self, experiment: Experiment) -> None:
        train = experiment.train
        self.experiment, self.accelerator, self.step = experiment, join_processes(), 0
        self.skipped, self.window = 0, Window()
        self.stop, self.stopping = StopRequest(), False
        device = self.accelerator.device
        self.sharded = train.sharding == "full" and self.accelerator.num_processes > 1
        if train.sharding == "full" and not self.sharded:
            self.accelerator.print("train.sharding full: one process alone holds everything")
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
            self.bare_model = experiment.system.build(classes).train()
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
        self.wrapped, self.optimizer = self._place()
        self.model = with_precision(self.wrapped, train.precision, device)
        self.statistics = RunningStatistics(self.bare_model)

    def _place(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Models on the device, whole or cut: the one to train, synchronised, and its optimizer."""
        train, accelerator = self.experiment.train, self.accelerator
        models = [self.bare_model, *([self.average.module] if self.average is not None else [])]
        if self.sharded:
            with user_errors():
                shard(models, accelerator)
            optimizer = build_optimizer(self.bare_model, train)
            return self.bare_model, accelerator.prepare(optimizer)
        for model in models:
            model.to(accelerator.device)
        return accelerator.prepare(self.bare_model, build_optimizer(self.bare_model, train))

    def groups(self, last_step: int) -> Iterator[list[Any]]:
        """Micro-batches of each optimizer step up to ``last_step``, on the CPU."""
        accumulate = self.experiment.train.accumulate
        while self.step < last_step:
            epoch, done = divmod(self.step, self.schedule.steps_per_epoch)
            self.order.start_at(epoch, done * accumulate)
            with signals_held():
                loader = iter(self.loader)
            while self.step < last_step and (group := list(itertools.islice(loader, accumulate))):
                yield group

    def update(self, group: list[Any]) -> dict[str, float] | None:
        """One optimizer step on micro-batches, as one large batch: losses, their sum, the norm.

        None if one of them was not finite in any process: then nothing but the step number changes.
        Raises FloatingPointError once more steps than ``train.skip_nonfinite`` are skipped.
        """
        accelerator = self.accelerator
        self.seed(self.step, accelerator.process_index)
        self.schedule.apply(self.optimizer, self.step)
        if self.sharded:  # as DDP does by itself
            share(self.statistics.buffers, accelerator)
        self.statistics.remember()
        rows = list(self.gradients(group))
        clip_norm = self.experiment.train.clip_norm or math.inf
        norm = whole(accelerator.clip_grad_norm_(self.wrapped.parameters(), clip_norm))
        *numbers, norms = read_numbers([*rows, {"grad_norm": norm}])
        samples = [getattr(batch, "tokens", ()) for batch in group]
        wrong = first_not_finite(numbers, samples)
        steep = first_not_finite([norms], [tuple(itertools.chain(*samples))])
        lost, refused, self.stopping = any_process(
            accelerator, bool(wrong), bool(wrong or steep), bool(self.stop.made)
        )
        if refused:  # the norm is that of all processes: where a loss is wrong, that one is told
            self._refuse(group, wrong if lost else steep)
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None and not refused:
            self.average.update_parameters(self.bare_model)
        self.step += 1
        if refused:
            return None
        names = dict.fromkeys(name for row in numbers for name in row)
        return {**{name: sum(row.get(name, 0.0) for row in numbers) for name in names}, **norms}

    def seed(self, step: int, process: int) -> None:
        """Set the random state that the step with index ``step`` has in ``process``."""
        torch.manual_seed(mix_seed(self.experiment.train.seed, step, process))

    def gradients(self, group: list[Any]) -> Iterator[dict[str, Tensor]]:
        """Add up the gradients of micro-batches; the losses and statistics of each."""
        accelerator = self.accelerator
        for position, batch in enumerate(group):
            batch = batch.to(accelerator.device, non_blocking=True)
            last = position == len(group) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.wrapped):
                predictions = self.model(batch)
                losses = self.criterion(predictions, batch.targets)
                if position == 0:
                    shares = step_shares(self.criterion, predictions, group)
                losses = shares.weigh(position, losses)
                loss = torch.stack(list(losses.values())).sum()
                accelerator.backward(loss)
            with torch.no_grad():
                logged = self.experiment.system.statistics(predictions, batch.targets)
            means = {name: value / len(group) for name, value in logged.items()}
            yield {**losses, "loss": loss, **means}

    def _refuse(self, group: list[Any], wrong: tuple[str, str] | None) -> None:
        """Undo what a forward pass changed, keep what is needed to look at it, and tell."""
        self.statistics.put_back()
        self.skipped += 1
        told = None
        weights = gathered(self.bare_model.state_dict(), keep=bool(wrong))
        if wrong:
            path = save_replay(
                self.experiment.work_dir,
                group,
                weights,
                self.origin,
                step=self.step,
                process=self.accelerator.process_index,
            )
            told = f"{wrong[0]} at step {self.step + 1}, samples {wrong[1]}"
            told += f"; look at it with --replay {path}" if path else ""
        reasons = "; ".join(reason for reason in gather_object([told]) if reason)
        allowed = self.experiment.train.skip_nonfinite
        if self.skipped > allowed:
            raise FloatingPointError(reasons)
        self.accelerator.print(f"skipped step {self.skipped} of at most {allowed}: {reasons}")

    def save(self) -> None:
        """Write the training state and the exported weights; for all processes to call."""
        state = {
            "model": self.bare_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "steps_per_epoch": self.schedule.steps_per_epoch,
            "skipped": self.skipped,
            "windows": gather_object([self.window.state()]),
        }
        main, keep = self.accelerator.is_main_process, self.experiment.train.keep_checkpoints
        state = gathered(state, keep=main)
        if main:
            save_state(self.experiment.work_dir, self.step, state, self.origin, keep)
        self.export()
        self.accelerator.wait_for_everyone()

    @property
    def best_model(self) -> nn.Module:
        """The model to use: with averaged weights, if there are any."""
        return self.bare_model if self.average is None else self.average.module

    def export(self) -> Path:
        """Write the weights to use and return their path; if sharded, for all processes to call."""
        path, main = self.experiment.work_dir / WEIGHTS_FILE, self.accelerator.is_main_process
        weights = gathered(self.best_model.state_dict(), keep=main)
        if main:
            export_weights(path, weights, self.origin)
        return path

    def resume(self) -> None:
        """Continue from the newest whole training state of the work directory.

        Says which newer ones were refused, and why. Raises UserError if none can be read or if the
        newest whole one is of another system or other data.
        """
        work_dir, main = self.experiment.work_dir, self.accelerator.is_main_process
        path, refused = broadcast_object_list([newest_whole_state(work_dir) if main else None])[0]
        if path is None:
            raise UserError(f"no training state in {work_dir} can be read: " + "; ".join(refused))
        for reason in refused:
            self.accelerator.print(f"refused: {reason}; going back to {path.name}")
        self.restore(path)

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
        load_gathered(self.bare_model, state["model"])
        # Rates and decays are settings: the experiment's count, not those of the stopped run.
        groups = self.optimizer.state_dict()["param_groups"]
        moments = cut_optimizer_state(state["optimizer"]["state"], self.optimizer)
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.average is not None and state["average"] is None:
            load_gathered(self.average.module, state["model"])
        elif self.average is not None:
            load_gathered(self.average, state["average"])
        self.step, self.skipped = state["step"], state.get("skipped", 0)
        windows = state.get("windows", [])
        if len(windows) == self.accelerator.num_processes:
            self.window = restore_window(windows[self.accelerator.process_index])


def fit(experiment: Experiment, *, resume: bool = False, stop_after: int | None = None) -> Path:
    """Train and return the path of the exported weights, ``work_dir / "model.safetensors"``.

    ``resume`` continues from the newest whole training state, or starts if there is none;
    ``stop_after`` saves and returns once so many optimizer steps are done in all. Raises Stopped if
    SIGTERM or SIGINT stopped it, after saving; UserError for missing data, for a work directory
    that holds another run, and for states that do not fit; FloatingPointError if a loss or the
    gradient is not finite more often than ``train.skip_nonfinite`` allows.
    """
    train, work_dir = experiment.train, experiment.work_dir
    states = list_states(work_dir)
    if states and not resume:
        raise UserError(
            f"{work_dir} already holds a run ({states[-1].name}): continue it with --resume, "
            "or choose another --work-dir"
        )
    set_up_host(train.threads)
    training = Training(experiment)
    if states:
        training.resume()
    num_steps = training.schedule.num_steps
    log = RunLog(
        work_dir,
        first_step=training.step,
        num_steps=num_steps,
        enabled=training.accelerator.is_main_process,
    )
    try:
        with training.stop:
            missing = training.validation.due(training.step) and training.step not in log.judged
            if states and broadcast_object_list([missing])[0]:
                _judge(training, log)  # the run was stopped before or while it did
            _train(training, log, num_steps if stop_after is None else min(stop_after, num_steps))
    finally:
        log.close()
    if training.stopping and training.step < num_steps:
        signal = training.stop.made or "a signal to another process"
        raise Stopped(
            f"stopped by {signal} after step {training.step} of {num_steps}: "
            "the same command with --resume continues"
        )
    training.export()
    training.accelerator.wait_for_everyone()
    return work_dir / WEIGHTS_FILE


def _train(training: Training, log: RunLog, last_step: int) -> None:
    """Step, log, judge and save until ``last_step`` steps are done or a signal asks to stop.

    Log lines depend on the step alone, not on where a run stopped: a training state saved between
    two of them holds the measurements of the line to come.
    """
    train, steps_per_epoch = training.experiment.train, training.schedule.steps_per_epoch
    waiting = time.perf_counter()
    for group in training.groups(last_step):
        training.window.data_seconds += time.perf_counter() - waiting
        values = training.update(group)
        if values is not None:
            training.window.add(values)
        log.advance()
        epoch = training.step % (train.checkpoint_every * steps_per_epoch) == 0
        epoch = epoch or training.step == training.schedule.num_steps
        between = train.checkpoint_steps and training.step % train.checkpoint_steps == 0
        due = training.validation.due(training.step)
        if epoch or due or training.step % train.log_every == 0:
            _write_window(training, log)
        if epoch or due or between or training.step == last_step or training.stopping:
            training.save()  # before a long evaluation, which nothing may be lost by
        if training.stopping:
            return
        if due:
            _judge(training, log)
        waiting = time.perf_counter()


def _judge(training: Training, log: RunLog) -> None:
    """One log line with the official figures of the weights as they are."""
    log.write(training.validation.record(training.best_model, training.step))
    training.window = Window()  # whose clock starts now


def _write_window(training: Training, log: RunLog) -> None:
    """One log line with the means over the window and over the processes; begin the next window."""
    window, training.window = training.window, Window()
    if not window.values:
        return  # all of them were skipped
    steps, seconds = len(window.values), time.perf_counter() - window.started
    means = {
        **window.means(),
        "data_time": window.data_seconds / steps,
        "step_time": seconds / steps,
    }
    parts = gather_object([means])
    means = {name: sum(part[name] for part in parts) / len(parts) for name in means}
    heads = ("loss", "grad_norm", "data_time", "step_time")
    skipped = {"skipped": training.skipped} if training.skipped else {}
    log.write(
        {
            "step": training.step,
            "epoch": round(training.step / training.schedule.steps_per_epoch, 4),
            "lr": max(group["lr"] for group in training.optimizer.param_groups),
            **{name: means[name] for name in heads},
            **skipped,
            "losses": {name: value for name, value in means.items() if name not in heads},
        }
    )
