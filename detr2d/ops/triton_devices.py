"""Where Triton's kernels can work: on CUDA devices, where Triton is installed."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

HAS_TRITON = torch.cuda.is_available() and find_spec("triton") is not None


def triton_serves(*tensors: Tensor) -> bool:
    """Whether kernels can take these: all on a CUDA device, and none in float64."""
    return HAS_TRITON and all(t.device.type == "cuda" and t.dtype != torch.float64 for t in tensors)
