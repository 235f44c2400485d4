"""Small constant tensors on a device, uploaded once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_KEPT: dict[tuple[Any, torch.dtype, torch.device], Tensor] = {}


def constant(values: tuple[Any, ...], like: Tensor) -> Tensor:
    """``like.new_tensor(values)`` of (nested) tuples of numbers; not to be changed in place.

    A tensor made of Python numbers is copied to its device, and the host waits until the device
    has done all work before it. So each is kept: a few bytes for every size of map or canvas.
    """
    if torch.compiler.is_compiling():  # there it is a constant of the program
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    key = (values, like.dtype, like.device)
    found = _KEPT.get(key)
    if found is None:
        with torch.inference_mode(False):  # else no later backward pass could use it
            found = torch.tensor(values, dtype=like.dtype, device=like.device)
        if type(found) is Tensor:  # not what stands for a tensor while a program is traced
            _KEPT[key] = found
    return found
