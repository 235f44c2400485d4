"""What a program costs, counted instead of timed: kernels, waits of the host, bytes kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from detr2d.doctor.plan import saved_bytes

# Views and allocations start no kernel; "detach" and "alias" only rename.
FREE = (
    "view", "expand", "permute", "transpose", "slice", "select", "split", "chunk", "unsqueeze",
    "squeeze", "t", "as_strided", "detach", "alias", "unbind", "empty", "new_empty", "unfold",
    "empty_like", "empty_strided", "_unsafe_view", "_reshape_alias", "unsafe_split", "diagonal",
    "split_with_sizes", "_local_scalar_dense", "is_same_size", "lift_fresh", "new_empty_strided",
)  # fmt: skip
# Their result, or its size, depends on values: on a device the host has to wait for these.
READS = (
    "_local_scalar_dense", "nonzero", "item", "equal", "masked_select", "is_nonzero",
    "_linalg_check_errors", "_unique2", "unique_dim", "unique_consecutive", "bincount",
)  # fmt: skip
MASKED = ("index", "index_put", "index_put_", "_index_put_impl_")


@dataclass(frozen=True)
class Budget:
    """The most that a training step may cost; bytes are those that its forward pass keeps."""

    forward: int
    criterion: int
    backward: int
    saved: int


class Counting(TorchDispatchMode):
    """Counts operators that do work, and those that would make the host wait for a device.

    ``host_reads`` are values that the program looks at; ``uploads`` are copies from the host that
    wait for all work before them, seen only on another device than the CPU: "meta", say.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.host_reads: Counter[str] = Counter()
        self.uploads = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.split("::")[1]
        if name not in FREE:
            self.kernels[name] += 1
        if name in READS or (name in MASKED and _has_mask(args[1])) or _counts(name, kwargs):
            self.host_reads[name] += 1
        self.uploads += _waits_for_upload(name, args, kwargs)
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """Number of kernels."""
        return sum(self.kernels.values())


def _has_mask(indices: Any) -> bool:
    """Whether one of the indices is a mask, whose number of True entries has to be known."""
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _counts(name: str, kwargs: dict[str, Any] | None) -> bool:
    """Whether rows are repeated without saying how many there will be."""
    return name == "repeat_interleave" and (kwargs or {}).get("output_size") is None


def _waits_for_upload(name: str, args: Sequence[Any], kwargs: dict[str, Any] | None) -> bool:
    """Whether Python numbers or a tensor of the host travel to a device, and the host waits."""
    if name == "lift_fresh":
        return args[0].device.type != "cpu"
    device = torch.device((kwargs or {}).get("device") or "cpu")
    travels = name == "_to_copy" and args[0].device.type == "cpu" and device.type != "cpu"
    return travels and not (kwargs or {}).get("non_blocking")


def check_step(
    model: nn.Module, criterion: Any, batch: Any, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Assert that a training step stays within ``budget``; how often costs went to the host."""
    copies = []
    to_host = Tensor.cpu
    with Counting() as forward:
        predictions = model(batch)
    with monkeypatch.context() as patch, Counting() as criticism:
        patch.setattr(Tensor, "cpu", lambda tensor: copies.append(tensor) or to_host(tensor))
        loss = torch.stack(list(criterion(predictions, batch.targets).values())).sum()
    with Counting() as backward:
        loss.backward()
    counts = zip(
        ("forward", "criterion", "backward"),
        (forward, criticism, backward),
        (budget.forward, budget.criterion, budget.backward),
        strict=True,
    )
    for name, count, most in counts:
        assert count.total <= most, (name, count.total, count.kernels.most_common(20))
    assert not criticism.host_reads and not backward.host_reads
    saved = saved_bytes(model, lambda: model(batch))
    assert saved <= budget.saved, saved
    return len(copies)


def check_nothing_waits(model: nn.Module, batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that a forward pass makes the host wait for nothing.

    It runs on the device "meta", whose tensors have no values: whoever looks at one fails.
    """
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # unknown to "meta"
    on_device = batch.to("meta")
    model.to("meta")(on_device)  # constants are uploaded once
    with Counting() as count:
        model(on_device)
    assert not count.host_reads and not count.uploads
