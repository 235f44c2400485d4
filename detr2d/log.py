"""What a training run tells: a progress bar, JSON lines and TensorBoard, on the main process."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from detr2d.checkpoints.files import write_atomically
from detr2d.data.json_files import is_integer


@dataclass
class Window:
    """Measurements of this process since the last log line."""

    values: list[dict[str, float]] = field(default_factory=list)
    data_seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, values: dict[str, float]) -> None:
        """Remember the numbers of one optimizer step."""
        self.values.append(values)

    def means(self) -> dict[str, float]:
        """Mean of every value over the steps that have it."""
        totals: dict[str, list[float]] = {}
        for row in self.values:
            for name, number in row.items():
                totals.setdefault(name, []).append(number)
        return {name: sum(column) / len(column) for name, column in totals.items()}

    def state(self) -> dict[str, Any]:
        """The window as plain values, for a training state saved between two log lines."""
        return {
            "values": [dict(row) for row in self.values],
            "data_seconds": self.data_seconds,
            "seconds": time.perf_counter() - self.started,
        }


def restore_window(state: dict[str, Any]) -> Window:
    """The window that gave ``state``; its clock goes on from where it stood."""
    started = time.perf_counter() - state["seconds"]
    return Window(list(state["values"]), state["data_seconds"], started)


class RunLog:
    """``log.jsonl``, TensorBoard and the progress bar of one run; silent unless ``enabled``.

    A run that continues at ``first_step`` keeps the lines up to it, so that the file reads as if
    the run had never stopped; ``judged`` are the steps among them whose figures it has.
    """

    def __init__(self, work_dir: Path, *, first_step: int, num_steps: int, enabled: bool) -> None:
        self.bar = tqdm(
            initial=first_step,
            total=num_steps,
            disable=not enabled,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
        )
        self.path = work_dir / "log.jsonl"
        self.board: SummaryWriter | None = None
        self.judged: set[int] = set()
        if enabled:
            work_dir.mkdir(parents=True, exist_ok=True)
            kept = read_log(self.path, last_step=first_step) if first_step else []
            self.judged = {record["step"] for record in kept if "metrics" in record}
            lines = "".join(json.dumps(record) + "\n" for record in kept)
            write_atomically(self.path, lambda file: file.write_text(lines))
            self.board = SummaryWriter(str(work_dir / "tensorboard"), purge_step=first_step + 1)

    def advance(self) -> None:
        """Count one optimizer step on the bar."""
        self.bar.update()

    def write(self, record: dict[str, Any]) -> None:
        """Append one line; ``record`` holds ``step`` and numbers, or dictionaries of numbers.

        The bar shows the latest that has a loss.
        """
        if self.board is None:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for name, value in flatten(record):
            self.board.add_scalar(name, value, record["step"])
        if "loss" not in record:
            return
        self.bar.set_postfix(
            loss=f"{record['loss']:.3f}",
            lr=f"{record['lr']:.1e}",
            data=f"{record['data_time']:.3f}s",
            refresh=False,
        )

    def close(self) -> None:
        """Finish the bar and the TensorBoard file."""
        self.bar.close()
        if self.board is not None:
            self.board.close()


def read_log(path: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """Records of a ``log.jsonl`` up to ``last_step``; a line cut off by a crash ends the list.

    Raises ValueError for a line that is something else.
    """
    records: list[dict[str, Any]] = []
    try:
        lines = path.read_text().splitlines() if path.exists() else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no training log: {error}") from error
    for line in lines:
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            break
        if not isinstance(record, dict) or not is_integer(record.get("step")):
            raise ValueError(f"{path}: a line must be an object with a step, got {line[:60]}")
        if last_step is None or record["step"] <= last_step:
            records.append(record)
    return records


def flatten(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers of a record by name; nested ones as ``outer/inner``; ``step`` is left out."""
    flat: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            flat += flatten(value, f"{prefix}{name}/")
        elif name != "step":
            flat.append((prefix + name, value))
    return flat
