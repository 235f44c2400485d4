"""Pictures of training logs: every logged number over the steps, several runs together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detr2d.log import flatten, read_log
from detr2d.visualize import CLASS_COLORS

SKIPPED = ("step", "epoch", "data_time", "step_time")
LOGARITHMIC = ("lr", "grad_norm")
COLUMNS = 4
FEW = 40  # values up to which each is marked
Series = dict[str, tuple[list[int], list[float]]]  # steps and values by name


def read_series(path: Path) -> Series:
    """The logged numbers of a run by name, from its ``log.jsonl`` or its folder.

    COCO's -1 for a figure that is not defined is left out. Raises FileNotFoundError, or ValueError
    if nothing is logged, or something that is no number.
    """
    file = path / "log.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no training log at {file}")
    series: Series = {}
    for record in read_log(file):
        for name, value in flatten(record):
            if not isinstance(value, int | float):
                raise ValueError(f"{file}: {name} must be a number, got {str(value)[:60]}")
            if name not in SKIPPED and not (name.startswith("metrics/") and value == -1):
                steps, values = series.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    if not series:
        raise ValueError(f"{file} has no complete line of a training log")
    return series


def panel_order(runs: Mapping[str, Series]) -> list[str]:
    """Names of all series: metrics of evaluations first, then the loss, its terms, the rest."""
    names = list(dict.fromkeys(name for series in runs.values() for name in series))
    rank = {"metrics": 0, "loss": 1, "losses": 2}
    return sorted(names, key=lambda name: rank.get(name.split("/")[0], 3))


def smooth(values: Sequence[float], share: float = 0.04) -> np.ndarray:
    """A running mean over a share of the curve, shorter at both ends: as many values."""
    reach = max(0, round(len(values) * share / 2))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def draw_curves(runs: Mapping[str, Series], path: Path) -> None:
    """Write a panel per logged number, a colour per run, as PNG, SVG or PDF by the file's ending.

    The thin line is what was logged, the thick one its running mean.
    """
    from matplotlib.figure import Figure

    names = panel_order(runs)
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.4 * rows + 0.5), layout="constrained")
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat[len(names) :]:
        panel.set_visible(False)
    for panel, name in zip(panels.flat, names, strict=False):
        for number, (run, series) in enumerate(runs.items()):
            if name in series:
                color = np.array(CLASS_COLORS[(4 + number) % len(CLASS_COLORS)]) / 255
                steps, values = series[name]
                panel.plot(steps, values, color=color, alpha=0.35, linewidth=0.8)
                mark = "o" if len(steps) <= FEW else None
                panel.plot(
                    steps, smooth(values), marker=mark, color=color, ls="-", lw=1.8, ms=3, label=run
                )
        title = name.removeprefix("losses/").removeprefix("metrics/")
        style_panel(panel, title.replace("_", " "))
        if name in LOGARITHMIC:
            panel.set_yscale("log")
    if len(runs) > 1:
        handles, labels = max(
            (p.get_legend_handles_labels() for p in panels.flat[: len(names)]),
            key=lambda pair: len(pair[1]),
        )
        figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(runs)))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def style_panel(panel: Any, title: str) -> None:
    """Title, thin grid and no box around a panel."""
    panel.set_title(title, fontsize=10, loc="left")
    panel.grid(visible=True, color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(which="both", labelsize=8, length=0)
    panel.spines[["top", "right", "left", "bottom"]].set_visible(False)


def run_names(paths: Sequence[Path]) -> list[str]:
    """A different name for each run: the part of its path where the runs first differ."""
    folders = [path if path.is_dir() else path.parent for path in paths]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) == len(names):
        return names
    return [str(path) for path in paths]
