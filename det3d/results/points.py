"""Lidar point files: rows of float32 numbers, x y z first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from det3d.results.geometry import Array


def read_points(path: Path, columns: int, where: str) -> Array:
    """Points (N, columns) float32 of a file.

    Raises FileNotFoundError or ValueError, starting with ``where``, if the file is missing or no
    list of so many numbers a point.
    """
    try:
        numbers = np.fromfile(path, dtype="<f4")
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: lidar file {path} is missing") from error
    if columns < 3 or size % (4 * columns):
        raise ValueError(
            f"{where}: lidar file {path} of {size} bytes is no list of {columns} float32 numbers "
            "a point"
        )
    return numbers.reshape(-1, columns)
