"""Errors whose pattern betrays boxes that are written in another convention than ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ELONGATED = ("car", "truck", "bus", "trailer", "motorcycle", "bicycle")
FOUND = 0.1  # AP from which a class counts as found: its centres are right
SWAPPED_SIZE = 0.5  # mean scale error beyond which length and width are swapped
QUARTER_TURN = (1.2, 1.95)  # radians
OURS = (
    "here length runs along the heading, and yaw is counter-clockwise from the +x axis of the "
    "lidar frame (mmdet3d before 1.0: width first, yaw = -ours - pi/2)"
)


def wrong_conventions(summary: Mapping[str, Any]) -> list[str]:
    """What the official ``summary`` says about swapped sizes and turned headings; one line each.

    Looks at elongated classes that are found well, whose scale error would be about 0.7 and whose
    orientation error about 1.5 if boxes of another convention were taken for ours. Empty if nothing
    is suspicious.
    """
    found = [name for name in ELONGATED if summary["mean_dist_aps"].get(name, 0.0) >= FOUND]
    if not found:
        return []
    size, turn = (_mean(summary, found, key) for key in ("scale_err", "orient_err"))
    where = f"of {', '.join(found)}, which are found where they are; {OURS}"
    notes = []
    if size > SWAPPED_SIZE:
        notes.append(f"length and width look swapped: mean scale error {size:.2f} {where}")
    if QUARTER_TURN[0] <= turn <= QUARTER_TURN[1]:
        notes.append(
            f"yaw looks a quarter turn off or of the other sign: mean orientation error {turn:.2f} "
            f"rad {where}"
        )
    elif turn > QUARTER_TURN[1]:
        notes.append(f"yaw looks half a turn off: mean orientation error {turn:.2f} rad {where}")
    return notes


def _mean(summary: Mapping[str, Any], names: list[str], key: str) -> float:
    errors = [summary["label_tp_errors"][name][key] for name in names]
    known = [error for error in errors if not math.isnan(error)]
    return sum(known) / len(known) if known else 0.0
