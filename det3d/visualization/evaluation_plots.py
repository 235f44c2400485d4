"""Pictures of an official evaluation: precision over recall, errors and their kinds, by class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from det3d.results.errors import KINDS, Breakdown, break_down
from det3d.results.format import read_results
from det3d.results.matching import DISTANCES
from det3d.visualization.contents import readable
from det3d.visualization.palette import CLASS_COLORS
from detr2d.curves import style_panel

DETAILS_FILE, SUMMARY_FILE, RESULTS_FILE = (
    "metrics_details.json", "metrics_summary.json", "results.json",
)  # fmt: skip
ERRORS = {
    "trans_err": "translation (m)",
    "scale_err": "scale (1 - IoU)",
    "orient_err": "orientation (rad)",
    "vel_err": "velocity (m/s)",
    "attr_err": "attribute (1 - accuracy)",
}
DISTANCE_COLORS = ("#0b2a5b", "#1f6fb4", "#e08a1e", "#f2c14e")  # near to far
KIND_COLORS = ("#0e7fc1", "#7fb7dd", "#f2c14e", "#b0208f", "#b9bec5")


def draw_evaluation(folder: Path, path: Path, *, score: float = 0.3) -> None:
    """Write the pictures of an evaluation folder of ``tools/evaluate.py`` as one file.

    Above, for each class, the devkit's precision over recall at its four distances; below, its mean
    true-positive errors and, if results.json is there, what the detections of at least ``score``
    are. Raises FileNotFoundError for a missing file.
    """
    from matplotlib.figure import Figure

    details, summary = (read_json(folder / name) for name in (DETAILS_FILE, SUMMARY_FILE))
    names = list(summary["mean_dist_aps"])
    figure: Any = Figure(figsize=(15, 11.5), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    draw_precision(upper, details, summary, names)
    left, right = lower.subfigures(1, 2, width_ratios=(1.3, 1))
    draw_errors(left, summary, names)
    if (folder / RESULTS_FILE).is_file():
        draw_kinds(
            right, break_down(read_results(folder / RESULTS_FILE), score=score), names, score
        )
    title = f"mAP {summary['mean_ap']:.3f}   NDS {summary['nd_score']:.3f}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file. Raises FileNotFoundError saying what is expected there."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: expected a folder that tools/evaluate.py wrote"
        )
    return json.loads(path.read_text())


def draw_precision(
    figure: Any, details: Mapping[str, Any], summary: Mapping[str, Any], names: list[str]
) -> None:
    """A panel per class: precision over recall, a line per matching distance."""
    columns = -(-len(names) // 2)
    panels = figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False)
    for panel, name in zip(panels.flat, names, strict=False):
        for distance, color in zip(DISTANCES, DISTANCE_COLORS, strict=True):
            curve = details[f"{name}:{distance}"]
            label = f"{distance:g} m"
            panel.plot(curve["recall"], curve["precision"], color=color, linewidth=1.6, label=label)
        style_panel(panel, f"{readable(name)}  AP {summary['mean_dist_aps'][name]:.3f}")
        panel.set(xlim=(0, 1), ylim=(0, 1.02))
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    panels.flat[0].legend(fontsize=8, frameon=False, title="within", title_fontsize=8)


def draw_errors(figure: Any, summary: Mapping[str, Any], names: list[str]) -> None:
    """A panel per true-positive error: a bar per class, and the mean."""
    panels = figure.subplots(1, len(ERRORS), sharey=True)
    places = np.arange(len(names))[::-1]
    for panel, (key, title) in zip(panels, ERRORS.items(), strict=True):
        values = np.array([summary["label_tp_errors"][name][key] for name in names], dtype=float)
        colors = np.array(CLASS_COLORS)[: len(names)] / 255
        panel.barh(places, np.nan_to_num(values), color=colors, height=0.7, edgecolor="0.3", lw=0.4)
        panel.axvline(summary["tp_errors"][key], color="0.3", linewidth=1, linestyle=":")
        style_panel(panel, title)
        panel.title.set_fontsize(8.5)
    panels[0].set_yticks(places, [readable(name) for name in names])
    figure.supxlabel("mean true-positive errors at 2 m; dotted: mean over classes", fontsize=9)


def draw_kinds(figure: Any, counts: Breakdown, names: list[str], score: float) -> None:
    """Stacked bars of what the detections of each class are, and how many objects were missed."""
    panel, missed = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    places, left = np.arange(len(names))[::-1], np.zeros(len(names))
    for kind, color in zip(range(len(KINDS)), KIND_COLORS, strict=True):
        width = counts.detections[:, kind]
        panel.barh(places, width, left=left, color=color, height=0.7, label=KINDS[kind])
        left += width
    missed.barh(places, counts.objects, color="0.88", height=0.7, label="objects")
    missed.barh(places, counts.missed, color="#d55e00", height=0.7, label="missed")
    panel.set_yticks(places, [readable(name) for name in names])
    style_panel(panel, f"detections of score {score:g} and more")
    style_panel(missed, "objects")
    for part in (panel, missed):
        part.legend(fontsize=7.5, frameon=False, loc="lower right")
