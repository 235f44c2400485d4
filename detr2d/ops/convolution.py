"""Convolution, bias, addition and ReLU as one step, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from detr2d.ops.matrix import onednn_serves, row_gradient, weight_gradient

ONEDNN_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Window:
    """Where a convolution looks: stride, padding and dilation, each (vertical, horizontal)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)


def convolve(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    window: Window,
    *,
    added: Tensor | None = None,
    relu: bool = True,
) -> Tensor:
    """ReLU (if ``relu``) of the convolution of images (N, C, H, W) plus ``bias`` plus ``added``.

    On the CPU, oneDNN does all of it in one pass over the output where it can; it is the same sum
    as ``convolve_plain`` in another order. Without gradients its ReLU makes NaN zero; with them NaN
    stays, for a run to notice. Gradients are once differentiable.
    """
    if not torch.is_grad_enabled():
        return _convolve(images, weight, bias, window, added, relu)
    if torch.compiler.is_compiling():  # which fuses and differentiates on its own
        return convolve_plain(images, weight, bias, window, added=added, relu=relu)
    return _Convolution.apply(images, weight, bias, added, window, relu)


def convolve_plain(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    window: Window,
    *,
    added: Tensor | None = None,
    relu: bool = True,
) -> Tensor:
    """The definition of ``convolve``, step by step."""
    output = F.conv2d(images, weight, bias, window.stride, window.padding, window.dilation)
    if added is not None:
        output = output + added
    return output.relu() if relu else output


class _Convolution(torch.autograd.Function):
    """What happens after the convolution needs nothing kept but the output's signs."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        added: Tensor | None,
        window: Window,
        relu: bool,
    ) -> Tensor:
        output = _convolve(images, weight, bias, window, added, relu=False)
        if relu:
            output.relu_()
        ctx.save_for_backward(images, weight, output if relu else None)
        ctx.window = window
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, output = ctx.saved_tensors
        to_images, to_weight, to_bias, to_added = ctx.needs_input_grad[:4]
        if output is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, output, 0)
        found = _gradients(gradient, images, weight, ctx.window, (to_images, to_weight))
        to_bias = gradient.sum((0, 2, 3)) if to_bias else None
        return *found, to_bias, gradient if to_added else None, None, None


def _gradients(
    gradient: Tensor, images: Tensor, weight: Tensor, window: Window, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of images and weight from that of the convolution, as far as needed."""
    if not any(needed):
        return None, None
    one_tap = weight.shape[2:] == (1, 1) and window == Window()
    if one_tap and onednn_serves(images, weight):
        return _matrix_gradients(gradient, images, weight.flatten(1), needed)
    to_images, to_weight, _ = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, window.stride, window.padding, window.dilation,
        False, (0, 0), 1, (*needed, False),
    )  # fmt: skip
    return to_images, to_weight


def _matrix_gradients(
    gradient: Tensor, images: Tensor, weight: Tensor, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The same for one tap, which is a product with the weight (C_out, C) at every pixel."""
    rows, pixels = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (gradient, images))
    count, _, height, width = images.shape
    to_images = to_weight = None
    if needed[0]:
        to_images = row_gradient(rows, weight).unflatten(0, (count, height, width))
        to_images = to_images.permute(0, 3, 1, 2)
    if needed[1]:
        to_weight = weight_gradient(rows, pixels)[..., None, None]
    return to_images, to_weight


def _convolve(
    images: Tensor, weight: Tensor, bias: Tensor, window: Window, added: Tensor | None, relu: bool
) -> Tensor:
    compiled = (
        torch.compiler.is_compiling()
    )  # it knows no shapes of the addition, and fuses it itself
    if _onednn_serves(images) and not (compiled and added is not None):
        return _convolve_onednn(images, weight, bias, window, added, relu)
    return convolve_plain(images, weight, bias, window, added=added, relu=relu)


def _onednn_serves(images: Tensor) -> bool:
    """Whether the fused kernel takes these inputs. torch.compile's own CPU backend relies on it."""
    if images.device.type != "cpu" or images.dtype not in ONEDNN_DTYPES or not images.numel():
        return False
    return _onednn_runs(images.dtype == torch.bfloat16)


@torch.compiler.assume_constant_result
def _onednn_runs(rounded: bool) -> bool:
    """Whether oneDNN is there and switched on (for bfloat16); torch.compile asks it once."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return not rounded or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _convolve_onednn(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    window: Window,
    added: Tensor | None,
    relu: bool,
) -> Tensor:
    where = (list(window.padding), list(window.stride), list(window.dilation), 1)
    if added is None:
        after = "relu" if relu else "none"
        return torch.ops.mkldnn._convolution_pointwise(images, weight, bias, *where, after, [], "")
    return torch.ops.mkldnn._convolution_pointwise.binary(
        images, added, weight, bias, *where, "add", 1.0, "relu" if relu else None, [], None
    )
