"""Weights that no process holds whole: FSDP2 (``torch.distributed.fsdp.fully_shard``).

Weights, gradients, optimizer state and averages are cut along their first axis, one piece a
process; each block of the model is whole only while it runs. Files hold whole tensors: they are the
same with and without sharding, and for any number of processes.

accelerate's FSDP plugin leaves processes on CPUs to DDP, so ``fully_shard`` is called here, and
gloo and NCCL go the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

UNIT = 1_000_000
"""Parameters from which on a block is put together on its own; smaller ones go with the model."""
OLDEST = (2, 12)
"""The first torch whose ``fully_shard`` is sure to see the tensors inside dataclasses."""


def shard(models: Sequence[nn.Module], accelerator: Accelerator) -> None:
    """Cut the weights of ``models`` in place, and move them to the process's device.

    For all processes to call, with the same weights. Raises ValueError for a torch that is too old
    and for parameters that are a single number, which FSDP2 cannot cut.
    """
    from torch.distributed.fsdp import fully_shard  # a second to import, and few runs need it

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST:
        least, came = ".".join(map(str, OLDEST)), torch.__version__
        raise ValueError(f"train.sharding full needs torch {least} or newer, got {came}")
    for model in models:
        numbers = [name for name, parameter in model.named_parameters() if not parameter.dim()]
        if numbers:
            raise ValueError(f"train.sharding full cannot cut single numbers: {', '.join(numbers)}")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for model in models:
        for module in (*blocks(model, UNIT), model):
            fully_shard(module, mesh=mesh)
        # Predictions are views of stacked layers; nothing changes them in place.
        said = rf"FSDP2-wrapped module \({type(model).__name__}\) returned a view"
        warnings.filterwarnings("ignore", message=said)


def blocks(model: nn.Module, unit: int) -> list[nn.Module]:
    """Items of the model's lists with at least ``unit`` parameters of their own, inner ones first.

    What an item inside has taken is not its own. Items without children are layers, not blocks.
    """
    lists = (nn.ModuleList, nn.Sequential)
    items = [item for m in model.modules() if isinstance(m, lists) for item in m.children()]
    found: list[nn.Module] = []
    taken: set[int] = set()
    for item in reversed(list(dict.fromkeys(items))):
        own = [p for p in item.parameters() if id(p) not in taken]
        if any(item.children()) and sum(p.numel() for p in own) >= unit:
            found.append(item)
            taken.update(id(p) for p in own)
    return found


def is_cut(model: nn.Module) -> bool:
    """Whether ``shard`` has cut this model's weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together from all processes, on each of them; as it is if nothing is cut."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def piece(tensor: Tensor) -> Tensor:
    """This process's part of the tensor, in the same memory; all of it if nothing is cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(value: Any, *, keep: bool = True) -> Any:
    """``value`` (nested dictionaries and lists) with every cut tensor whole, on the CPU.

    For all processes to call. One that does not ``keep`` them has None in their places.
    """
    if isinstance(value, DTensor):
        found = whole(value.detach())
        return found.cpu() if keep else None
    if isinstance(value, dict):
        return {key: gathered(item, keep=keep) for key, item in value.items()}
    if isinstance(value, list):
        return [gathered(item, keep=keep) for item in value]
    return value


def load_gathered(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors, the same in all processes, into a model that is cut or not."""
    own = model.state_dict()
    model.load_state_dict({name: _cut(value, own.get(name)) for name, value in state.items()})


def cut_optimizer_state(
    state: Mapping[int, Mapping[str, Any]], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Any]]:
    """Whole tensors by parameter, as ``optimizer.state_dict()`` numbers them, cut as these are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        index: {name: _cut(value, parameters[index]) for name, value in values.items()}
        for index, values in state.items()
    }


def _cut(value: Any, pattern: Tensor | None) -> Any:
    """A tensor cut as ``pattern`` is, if it has its shape; anything else as it is."""
    if not isinstance(pattern, DTensor) or getattr(value, "shape", None) != pattern.shape:
        return value
    return distribute_tensor(value.to(pattern.device), pattern.device_mesh, pattern.placements)
