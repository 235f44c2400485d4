"""Deterministic budgets: kernels and host reads per step, without a clock."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from detr2d.benchmark.subjects import noise_batch
from detr2d.inference import prepare_inference
from detr2d.structures import Predictions
from detr2d.systems.detr import DETRConfig

# Views and allocations start no kernel; "detach" and "alias" only rename.
FREE = (
    "view", "expand", "permute", "transpose", "slice", "select", "split", "chunk", "unsqueeze",
    "squeeze", "t", "as_strided", "detach", "alias", "unbind", "empty", "new_empty", "unfold",
    "empty_like", "empty_strided", "_unsafe_view", "_reshape_alias", "unsafe_split", "diagonal",
    "split_with_sizes", "_local_scalar_dense", "is_same_size", "lift_fresh", "new_empty_strided",
)  # fmt: skip


class Counting(TorchDispatchMode):
    """Counts operators that do work, and reads of a value by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.host_reads: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.split("::")[1]
        if name not in FREE:
            self.kernels[name] += 1
        if name in ("_local_scalar_dense", "nonzero", "item"):
            self.host_reads[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def detr() -> nn.Module:
    torch.manual_seed(0)
    return DETRConfig().build(tuple(str(number) for number in range(91)))


def test_a_forward_of_detr_r50_starts_few_kernels_and_reads_nothing(detr: nn.Module) -> None:
    predict = prepare_inference(detr, "float32", torch.device("cpu"))
    batch = noise_batch((64, 64), images=1, objects=0)
    with torch.no_grad(), Counting() as count:  # inference mode would hide what composites do
        predict(batch)
    assert sum(count.kernels.values()) <= 400, count.kernels.most_common(30)
    assert not count.host_reads


def predictions(images: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(6, images, 100, 92, requires_grad=True),
        torch.rand(6, images, 100, 4, requires_grad=True),
    )


@pytest.mark.parametrize("images", [1, 8])
def test_the_criterion_costs_the_same_for_any_number_of_layers_and_images(images: int) -> None:
    criterion = DETRConfig().build_criterion(tuple(str(number) for number in range(91)))
    logits, boxes = predictions(images)
    targets = noise_batch((64, 64), images=images, objects=7).targets
    with Counting() as forward:
        losses = criterion(Predictions(logits, boxes), targets)
        loss = torch.stack(list(losses.values())).sum()
    with Counting() as backward:
        loss.backward()
    assert sum(forward.kernels.values()) <= 125, forward.kernels.most_common(30)
    assert sum(backward.kernels.values()) <= 102, backward.kernels.most_common(30)
    assert not forward.host_reads  # the costs travel once, as a copy
    assert forward.kernels["_to_copy"] <= 8


def test_the_optimizer_updates_all_weights_in_a_few_kernels() -> None:
    weights = [nn.Parameter(torch.zeros(3, 3)) for _ in range(300)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=True)
    optimizer.step()
    with Counting() as count:
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    assert sum(count.kernels.values()) <= 20, count.kernels.most_common()
