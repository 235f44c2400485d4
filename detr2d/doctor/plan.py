"""What a training step of an experiment costs on this device: memory, time, and what fits."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detr2d.config import Experiment, TrainConfig
from detr2d.doctor.findings import Finding
from detr2d.inference import with_precision
from detr2d.optim import average_weights, build_optimizer, parameter_groups, train_only

STEPS = 3  # timed steps, after one that is not
SHARE = 0.9  # of the free memory that a run may take


@dataclass(frozen=True)
class Plan:
    """Bytes and seconds of an optimizer step, of ``batch`` samples a micro-batch.

    fixed: weights, gradients, optimizer, averages, and what the backward pass keeps once;
    per_sample: what it keeps of one sample; predicted: their sum for the batch; measured: the peak
    above what was there before; seconds: the median of a step; free: what the device had; failed: a
    batch that ran out of memory, if one did.
    """

    batch: int
    fixed: int
    per_sample: int
    measured: int
    seconds: float
    free: int
    failed: int | None = None

    def needed(self, samples: int) -> int:
        """Bytes of a micro-batch of so many samples: the larger of prediction and measurement."""
        beyond = max(0, self.measured - self.predicted) / self.batch
        return round(self.fixed + samples * (self.per_sample + beyond))

    @property
    def predicted(self) -> int:
        """Bytes of the planned batch."""
        return self.fixed + self.batch * self.per_sample

    def fitting_batch(self, total: int) -> int | None:
        """The largest micro-batch that divides ``total`` samples and fits; None if none does."""
        most = total if self.failed is None else min(total, self.failed - 1)
        sizes = [size for size in range(most, 0, -1) if total % size == 0]
        return next((s for s in sizes if self.needed(s) <= SHARE * self.free), None)


def plan_training(experiment: Experiment, device: torch.device) -> list[Finding]:
    """Predicted and measured cost of a step on ``device``, as findings.

    Takes samples from the training set. Raises ValueError or OSError if there are none.
    """
    train = experiment.train
    total = train.batch_size * train.accumulate
    where = f"{device.type}, {total} samples a step"
    free = free_bytes(device)
    try:
        plan = measure_plan(experiment, device, free)
    except torch.OutOfMemoryError:
        return [nothing_fits(where, free)]
    kept = f"{megabytes(plan.fixed)} fixed + {plan.batch} x {megabytes(plan.per_sample)} a sample"
    findings = [
        Finding(
            "note", "plan", where,
            f"peak memory: predicted {megabytes(plan.predicted)} ({kept}), measured "
            f"{megabytes(plan.measured)} with {plan.batch} a micro-batch; "
            f"{plan.seconds:.2f} s a micro-batch with its update",
        )
    ]  # fmt: skip
    fitting = plan.fitting_batch(total)
    if fitting is None:
        return [*findings, nothing_fits(where, plan.free)]
    said = (
        f"into {megabytes(plan.free)} fit {fitting} a micro-batch: train.batch_size {fitting}, "
        f"train.accumulate {total // fitting}"
    )
    if fitting < train.batch_size:
        said = f"{train.batch_size} a micro-batch do not fit; {said}"
        return [*findings, Finding("error", "plan-memory", where, said, "the step stays the same")]
    return [*findings, Finding("note", "plan-memory", where, said)]


def nothing_fits(where: str, free: int) -> Finding:
    """The finding that a step of one sample takes more than there is."""
    said = f"not even one sample fits into {megabytes(free)}"
    advice = "take smaller images, a smaller backbone or train.precision bfloat16"
    return Finding("error", "plan-memory", where, said, advice)


def measure_plan(experiment: Experiment, device: torch.device, free: int) -> Plan:
    """Build everything once and step; a batch that does not fit is made smaller.

    Raises torch.OutOfMemoryError if one sample does not fit.
    """
    train, data = experiment.train, experiment.data
    dataset: Any = data.training_set(train.seed)
    if not len(dataset):
        raise ValueError("the training set has no samples")
    samples = [dataset[i % len(dataset)] for i in range(train.batch_size)]
    before = reset_peak(device)
    classes = data.class_names()
    model = experiment.system.build(classes).to(device).train()
    train_only(model, train.only)
    criterion: Any = experiment.system.build_criterion(classes)
    if isinstance(criterion, nn.Module):
        criterion.to(device)
    predict = with_precision(model, train.precision, device)

    def loss_of(batch: Any) -> Tensor:
        return torch.stack(list(criterion(predict(batch), batch.targets).values())).sum()

    def saved(count: int) -> int:
        batch = data.collate(samples[:1] * count).to(device)
        return saved_bytes(model, lambda: loss_of(batch))

    once, per_sample = split_bytes(saved)
    fixed = fixed_bytes(model, train) + once
    able = min(len(samples), max(1, int((SHARE * free - fixed) // max(1, per_sample))))
    optimizer = build_optimizer(model, train)
    average = average_weights(model, train.ema_decay) if train.ema_decay else None

    def seconds_of(size: int) -> float:
        batch = data.collate(samples[:size]).to(device)

        def step() -> None:
            loss_of(batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            if average is not None:
                average.update_parameters(model)

        optimizer.zero_grad()
        reset_peak(device)
        return time_steps(step, device)

    size, seconds, failed = halve_until_it_fits(able, seconds_of)
    measured = peak_bytes(device) - before
    return Plan(size, fixed, per_sample, measured, seconds, free, failed)


def split_bytes(saved: Callable[[int], int]) -> tuple[int, int]:
    """What is kept once (weights cast to another type) and what is kept for each sample.

    ``saved`` tells the bytes of a batch; where two samples find no room, all counts for each.
    """
    one = saved(1)
    try:
        per_sample = min(one, max(0, saved(2) - one))
    except torch.OutOfMemoryError:
        return 0, one
    return one - per_sample, per_sample


def halve_until_it_fits(
    size: int, measure: Callable[[int], float]
) -> tuple[int, float, int | None]:
    """The first of ``size``, its half, ... that finds room, its measure, and the last that did not.

    Raises torch.OutOfMemoryError if one sample does not.
    """
    failed = None
    while True:
        try:
            return size, measure(size), failed
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        failed, size = size, size // 2  # not above: there the error still holds the step's tensors


def fixed_bytes(model: nn.Module, train: TrainConfig) -> int:
    """Weights, gradients, optimizer state (two moments; Muon's matrices one) and averages."""
    weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    states = 0
    for group in parameter_groups(model, train):
        size = sum(p.numel() * p.element_size() for p in group["params"])
        moments = 1 if train.optimizer == "muon" and group["decayed"] else 2
        states += size * (1 + moments)
    return weights * (2 if train.ema_decay else 1) + states


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass: storages that are no weights, once."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage() if tensor.layout == torch.strided else None
        if storage is not None and storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def time_steps(step: Callable[[], None], device: torch.device) -> float:
    """Median seconds of a step, the first one left out."""
    step()
    times = []
    for _ in range(STEPS):
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_bytes(device: torch.device) -> int:
    """Memory that a run could take: free memory of a GPU, or what Linux says is available."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    for line in read_lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def reset_peak(device: torch.device) -> int:
    """Start to measure the peak anew; the bytes that are in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: sets VmHWM to the present size
    except OSError:
        return peak_bytes(device)  # the peak since the process began is all there is
    return status_bytes("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The largest number of bytes in use since ``reset_peak``."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return status_bytes("VmHWM") or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def status_bytes(key: str) -> int:
    """A size in /proc/self/status in bytes, 0 if there is none."""
    for line in read_lines(Path("/proc/self/status")):
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    return 0


def read_lines(path: Path) -> list[str]:
    """The lines of a file, none if there is no such file."""
    return path.read_text().splitlines() if path.is_file() else []


def megabytes(count: int) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
