"""Convolution, bias, addition and ReLU as one step, for inference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

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
    as ``convolve_plain`` in another order. No gradients.
    """
    if _onednn_serves(images, added, relu):
        return _convolve_onednn(images, weight, bias, window, added, relu)
    return convolve_plain(images, weight, bias, window, added=added, relu=relu)


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


def _onednn_serves(images: Tensor, added: Tensor | None, relu: bool) -> bool:
    """Whether the fused kernel takes these inputs. torch.compile's own CPU backend relies on it."""
    if images.device.type != "cpu" or images.dtype not in ONEDNN_DTYPES or torch.is_grad_enabled():
        return False
    if not _onednn_runs(images.dtype == torch.bfloat16):
        return False
    if torch.compiler.is_compiling():  # which knows no shapes of the addition, and fuses it itself
        return added is None
    return added is None or relu


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
        images, added, weight, bias, *where, "add", 1.0, "relu", [], ""
    )
