"""What all processes of a run decide or know together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor


def any_process(accelerator: Accelerator, *claims: bool) -> list[bool]:
    """For each claim, whether any process makes it; every process has to ask."""
    if accelerator.num_processes == 1:
        return list(claims)
    votes = torch.tensor(claims, dtype=torch.float32, device=accelerator.device)
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
    return (votes > 0).tolist()


def share(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Overwrite tensors with the main process's, in place; every process has to call."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)
