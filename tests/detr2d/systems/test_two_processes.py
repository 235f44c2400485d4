"""Two processes, one of them without any object: the same collectives, names and gradients."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from detr2d.config import SystemConfig
from tests.detr2d.systems import test_deformable_detr as deformable
from tests.detr2d.systems import test_dino as dino
from tests.helpers.images import CLASSES, sample

SYSTEMS: dict[str, SystemConfig] = {"two-stage": deformable.TWO_STAGE, "dino": dino.FOUR}
MORE: dict[str, SystemConfig] = {
    "single-scale": deformable.SINGLE,
    "single-scale-dc5": deformable.DILATED,
    "plain": deformable.PLAIN,
    "refined": deformable.REFINED,
    "dino-5-scale": dino.FIVE,
    "dino-swin": dino.SWIN,
    "dino-no-denoising": dino.PLAIN,
}


def work(rank: int, name: str, port: int, folder: str) -> None:
    """One training step of one process; rank 1 has no object. Its gradients go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    system = (SYSTEMS | MORE)[name]
    model = DistributedDataParallel(system.build(CLASSES).train())
    torch.manual_seed(rank + 1)
    batch = sample(64, 96, objects=2 * (1 - rank))
    for _ in range(2):  # the second step waits for what the first left unreduced
        losses = system.build_criterion(CLASSES)(model(batch), batch.targets)
        model.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    torch.save((sorted(losses), gradients), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "name", [*SYSTEMS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)
def test_a_process_without_objects_trains_along(name: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (name, port, str(tmp_path)), nprocs=2)
    (names, first), (others, second) = (torch.load(tmp_path / f"{r}.pt") for r in (0, 1))
    assert names == others
    assert set(first) == set(second)
    for key, gradient in first.items():
        assert gradient is not None and bool(gradient.isfinite().all()), key
        torch.testing.assert_close(gradient, second[key])
