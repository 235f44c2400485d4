"""Pickle files of plain values and numpy arrays, read without running anything that they name.

mmdet3d's info files are pickles. A pickle is a program; this reader knows lists, dictionaries,
numbers, texts and numpy arrays and refuses every other name, as ``torch.load(weights_only=True)``
does.
"""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

RECONSTRUCT = np.zeros(0).__reduce__()[0]
SCALAR = np.float64(0).__reduce__()[0]
HARMLESS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
    **{
        (module, name): value
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, value in (("_reconstruct", RECONSTRUCT), ("scalar", SCALAR))
    },
}
LARGEST = 4 * 2**30  # bytes


class PlainValues(pickle.Unpickler):
    """An unpickler that finds nothing but what arrays are made of."""

    def find_class(self, module: str, name: str) -> Any:
        """The harmless value of that name. Raises UnpicklingError for any other."""
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return HARMLESS[module, name]


def read_plain_pickle(path: Path) -> Any:
    """The content of a pickle file. Raises ValueError if it holds anything but plain values."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is not read: it is larger than {LARGEST} bytes")
    try:
        return PlainValues(io.BytesIO(path.read_bytes())).load()
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, LookupError,
        AttributeError, OverflowError, MemoryError, RecursionError,
    ) as error:  # fmt: skip
        raise ValueError(f"{path} is not read: {str(error)[:200] or 'it is no pickle'}") from error
