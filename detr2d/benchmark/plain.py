"""Our models with every operator replaced by its definition: what published code runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch.nn.functional as F
from torch import Tensor, nn

from detr2d import deformable, images, linear
from detr2d.backbones import deformable_conv, residual, resnet, vovnet
from detr2d.backbones.batch_norm import convolve_then_norm
from detr2d.ops.deformable_convolution_torch import deform_plain
from detr2d.ops.sampling_torch import sample_and_sum

Exchange = tuple[Any, str, Any]
"""A module or class, the operator that it uses, and the definition in its place."""


def _attend_with_weights(attention: nn.MultiheadAttention, *inputs: Any, **options: Any) -> Any:
    """Attention that also computes its weights, which is what ``nn.MultiheadAttention`` does."""
    return nn.MultiheadAttention.forward(attention, *inputs, **options | {"need_weights": True})


def _as_they_are(batch: Tensor) -> Tensor:
    """Images channel by channel."""
    return batch.contiguous()


GRID_SAMPLE: Exchange = (deformable, "multi_scale_deformable_attention", sample_and_sum)
PLAIN: tuple[Exchange, ...] = (
    (images, "channels_together", _as_they_are),
    (linear, "linear", F.linear),
    (linear.MultiheadAttention, "forward", _attend_with_weights),
    (resnet, "convolve_norm", convolve_then_norm),
    (residual, "convolve_norm", convolve_then_norm),
    (vovnet, "convolve_norm", convolve_then_norm),
    (deformable_conv, "convolve_deformed", deform_plain),
    GRID_SAMPLE,
)


def with_plain_operators(
    run: Callable[[], Any], exchanges: Sequence[Exchange] = PLAIN
) -> Callable[[], Any]:
    """The program on definitions: torch's and torchvision's own layers, and ``grid_sample``."""

    def program() -> Any:
        with ExitStack() as stack:
            for module, name, definition in exchanges:
                stack.enter_context(patch.object(module, name, definition))
            return run()

    return program
