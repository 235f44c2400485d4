"""Matrix products in float32 on the CPU, where torch's own are slow on some processors.

torch hands float32 products to MKL, which knows AVX-512 on Intel's processors only: on a Zen 5 core
it reaches 105 GFLOP/s where oneDNN reaches 220. Products in bfloat16 are oneDNN's already.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

WORTHWHILE = 2**20  # multiplications, below which calling oneDNN costs more than it gains


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: (..., N) of tokens (..., K) with weight (N, K) and bias (N,).

    Under autocast, ``torch.compile`` and anywhere but in float32 on the CPU it is ``F.linear``.
    """
    if not onednn_serves(tokens, weight) or torch.is_autocast_enabled("cpu"):
        return F.linear(tokens, weight, bias)
    rows = tokens.flatten(0, -2)
    product = _Linear.apply if torch.is_grad_enabled() else _product
    return product(rows, weight, bias).view(*tokens.shape[:-1], len(weight))


def onednn_serves(rows: Tensor, weight: Tensor) -> bool:
    """Whether a product of rows (..., K) with a weight (N, K) is oneDNN's to make."""
    if torch.compiler.is_compiling() or rows.device.type != "cpu" or rows.dim() < 2:
        return False
    if not rows.dtype == weight.dtype == torch.float32:
        return False
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return rows.numel() * weight.shape[0] >= WORTHWHILE


def row_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Gradient (M, K) of the rows of a product with a weight (N, K), from that of it (M, N)."""
    return _product(gradient, weight.t(), None)


def weight_gradient(gradient: Tensor, rows: Tensor) -> Tensor:
    """Gradient (N, K) of the weight of a product of rows (M, K), from that of it (M, N)."""
    if gradient.shape[1] > rows.shape[1]:  # oneDNN likes few long rows
        return _product(rows.t(), gradient.t(), None).t()
    return _product(gradient.t(), rows.t(), None)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """A product of rows (M, K). A view of them inside would forbid changing the result in place."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        to_rows, to_weight, to_bias = ctx.needs_input_grad
        return (
            row_gradient(gradient, weight) if to_rows else None,
            weight_gradient(gradient, rows) if to_weight else None,
            gradient.sum(0) if to_bias else None,
        )
