"""Which comparison serves which fixture directory, those of 2D detectors included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from det3d.parity.detr3d import check_detr3d
from det3d.parity.ops import CHECKS, check_ops3d
from det3d.parity.petr import check_petr, check_petrv2
from detr2d.parity.families import FAMILIES as FAMILIES_2D
from detr2d.parity.families import Families
from detr2d.parity.families import check_directory as check_any
from detr2d.parity.fixtures import Section

FAMILIES: Families = {
    **FAMILIES_2D,
    "detr3d_": check_detr3d,
    "petr_": check_petr,
    "petrv2_": check_petrv2,
}


def check_directory(folder: Path, fill: Path | None = None) -> Iterator[Section]:
    """Compare one directory; whatever cannot be read or built is a failure too."""
    if any((folder / f"{name}.npz").is_file() for name in CHECKS):
        yield from check_ops3d(folder, fill)
    else:
        yield from check_any(folder, fill, FAMILIES)
