"""Decisions that all processes of a run make together."""

from __future__ import annotations

import torch
from accelerate import Accelerator


def any_process(accelerator: Accelerator, *claims: bool) -> list[bool]:
    """For each claim, whether any process makes it; every process has to ask."""
    if accelerator.num_processes == 1:
        return list(claims)
    votes = torch.tensor(claims, dtype=torch.float32, device=accelerator.device)
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
    return (votes > 0).tolist()
