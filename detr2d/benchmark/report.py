"""What a benchmark says: a table for people, JSON for programs, and on which machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from detr2d.benchmark.measure import Row, Setup

PEERS = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "pycocotools",
    "hotcoco",
)
HEAD = "| case | setting | ours | peer | ours, ms | peer, ms | ratio (quartiles) | difference |"


R = TypeVar("R")


@dataclass(frozen=True)
class Machine:
    """What the figures depend on besides the code."""

    device: str
    processor: str
    cores: int
    threads: int
    load: float
    omp_wait_policy: str
    versions: dict[str, str]


def describe_machine(setup: Setup) -> Machine:
    """The machine as it is now; ``load`` is the average number of running processes, 1 min."""
    on_gpu = setup.device.type == "cuda"
    return Machine(
        device=torch.cuda.get_device_name(setup.device) if on_gpu else "CPU",
        processor=_processor(),
        cores=os.cpu_count() or 1,
        threads=setup.threads,
        load=round(os.getloadavg()[0], 2),
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "not set"),
        versions={name: version for name in PEERS if (version := _version(name))},
    )


def _processor() -> str:
    """Model and vector extensions that matter for matrix products."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    lines = info.read_text().splitlines()
    pairs = (line.partition(":") for line in lines)
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    flags = set(fields.get("flags", "").split())
    useful = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{fields.get('model name', platform.machine())} ({' '.join(useful)})"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def make_table(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of a Markdown table, each as soon as its row is there."""
    yield HEAD
    yield "|" + "---|" * (HEAD.count("|") - 1)
    for row in rows:
        low, high = row.band
        yield (
            f"| {row.case} | {row.setting} | {row.ours} | {row.peer} "
            f"| {row.our_times[0]:.4g} | {row.peer_times[0]:.4g} "
            f"| **{row.ratio:.2f}** ({low:.2f}–{high:.2f}) | {row.difference:.1g} |"
        )


def keep(rows: list[R], found: Iterable[R]) -> Iterator[R]:
    """What is found, one by one, which is also kept in ``rows``."""
    for row in found:
        rows.append(row)
        yield row


def describe_run(rows: Sequence[Any], machine: Machine) -> dict[str, Any]:
    """Everything that was measured, rows of any kind, as plain JSON types."""
    return {"machine": asdict(machine), "rows": [asdict(row) for row in rows]}
