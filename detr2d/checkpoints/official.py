"""Read checkpoints that others have written, without ever executing what is in them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detr2d.checkpoints.files import BROKEN, SEEK_ERRORS

# Values that official files hold beside tensors: options and numpy numbers, which are pickled as
# a call to the function found here (its module differs between numpy 1 and 2).
NUMPY_SCALAR: Any = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [argparse.Namespace, np.dtype, np.dtypes.Float64DType, NUMPY_SCALAR]
STATE_KEYS = ("model", "ema_model", "model_ema", "state_dict")


def read_official(path: Path, *, averaged: bool = False) -> dict[str, Tensor]:
    """Weights by official name from a ``.pth`` file of any of the known layouts.

    The layout is recognised: the state itself, or under ``model``, ``ema_model``, ``model_ema`` or
    ``state_dict``, in this order; ``averaged`` asks for the averaged (EMA) weights instead. A
    ``module.`` in front of all names (data-parallel training) is taken off. Raises ValueError with
    the file's name if it is truncated, not a checkpoint, or holds objects that could run code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except (*BROKEN, OSError) as error:
        if getattr(error, "errno", None) not in SEEK_ERRORS:
            raise
        # torch's own message advises to read the file in the unsafe way.
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it would run {unsafe[1]}" if unsafe else "it is truncated or no checkpoint"
        raise ValueError(f"{path} is not read: {reason}") from error
    state = _find_state(content, path, averaged)
    prefix = "module."
    if state and all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _find_state(content: Any, path: Path, averaged: bool) -> dict[str, Tensor]:
    candidates: list[Any] = [content]
    if isinstance(content, Mapping):
        keys = [key for key in STATE_KEYS if key in content and ("ema" in key or not averaged)]
        candidates = [content[key] for key in keys]
        if not averaged:
            candidates.append(content)
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate:
            tensors = {str(k): v for k, v in candidate.items() if isinstance(v, Tensor)}
            if len(tensors) == len(candidate):
                return tensors
    wanted = "averaged weights" if averaged else "weights"
    found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise ValueError(f"{path} holds no {wanted}: expected one of {STATE_KEYS}, found {found[:200]}")
