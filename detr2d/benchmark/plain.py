"""Our models with every operator replaced by its definition: what published code runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch.nn.functional as F

from detr2d import linear
from detr2d.backbones import deformable_conv, residual, resnet, vovnet
from detr2d.backbones.batch_norm import convolve_then_norm
from detr2d.ops.deformable_convolution_torch import deform_plain

PLAIN: tuple[tuple[Any, str, Any], ...] = (
    (linear, "linear", F.linear),
    (resnet, "convolve_norm", convolve_then_norm),
    (residual, "convolve_norm", convolve_then_norm),
    (vovnet, "convolve_norm", convolve_then_norm),
    (deformable_conv, "convolve_deformed", deform_plain),
)
"""Modules, the operators that they use, and their definitions."""


def with_plain_operators(run: Callable[[], Any]) -> Callable[[], Any]:
    """The program with torch's and torchvision's own linear maps, norms and convolutions."""

    def program() -> Any:
        with ExitStack() as stack:
            for module, name, definition in PLAIN:
                stack.enter_context(patch.object(module, name, definition))
            return run()

    return program
