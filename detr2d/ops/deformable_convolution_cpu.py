"""Modulated deformable 3 x 3 convolution (DCNv2) for CPUs: gathered columns times a matrix.

Each tap of each pixel is a weighted sum of the four cells around it, which is a bag of
``embedding_bag``; the nine taps of a pixel are then a row of a matrix product. Backward goes
through the same sparse product as ``detr2d.ops.sampling_cpu``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from detr2d.ops.matrix import linear
from detr2d.ops.sampling_cpu import (
    Grid,
    Places,
    bordered_tables,
    chain,
    copy_inner_cells,
    empty_entries,
    fill_entries,
    find_cells,
    lay_out,
    products,
    scatter,
)

TAPS = 9
CHUNK = 2048  # pixels whose columns are made at once


def convolve_columns(
    features: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, stride: int
) -> Tensor:
    """Maps (N, C_out, H', W') as ``detr2d.ops.deformable_convolution``; once differentiable."""
    found = _Deformed.apply(features, offsets, weights, kernel, stride)
    return found.transpose(1, 2).unflatten(2, offsets.shape[2:])


class _Deformed(torch.autograd.Function):
    """Pixels (N, P, C_out). Columns are not kept: they are nine times what the features are."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, stride: int
    ) -> Tensor:
        ctx.save_for_backward(features, offsets, weights, kernel)
        ctx.stride = stride
        matrix = tap_matrix(kernel).to(features.dtype)
        tokens = _tokens(features)
        grid = lay_out(tokens, [*features.shape[2:]], 1)
        num_pixels = offsets.shape[2] * offsets.shape[3]
        found = features.new_empty(len(features), num_pixels, len(kernel))
        for image, rows in enumerate(bordered_tables(tokens, grid, features.dtype)):
            shares = weights[image].flatten(1).t()  # (P, 9)
            for some, places in _places(offsets[image], stride, grid):
                index, share = empty_entries(len(places.row), grid)
                fill_entries(index, share, places, shares[some].reshape(-1, 1), grid)
                found[image, some] = linear(_columns(index, share, rows), matrix)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, offsets, weights, kernel = ctx.saved_tensors
        kind = torch.promote_types(features.dtype, torch.float32)
        matrix = tap_matrix(kernel).to(kind)
        tokens = _tokens(features)
        grid = lay_out(tokens, [*features.shape[2:]], 1)
        to_tokens, to_matrix = tokens.new_empty(tokens.shape), torch.zeros_like(matrix)
        to_offsets, to_weights = torch.empty_like(offsets), torch.empty_like(weights)
        gradients = gradient.to(kind)  # (N, P, C_out)
        for image, rows in enumerate(bordered_tables(tokens, grid, kind)):
            shares = weights[image].flatten(1).t()
            index, share = empty_entries(TAPS * shares.shape[0], grid)
            to_columns = rows.new_empty(TAPS * shares.shape[0], rows.shape[1])
            for pixels, places in _places(offsets[image], ctx.stride, grid):
                some = slice(TAPS * pixels.start, TAPS * pixels.stop)
                weight, above = shares[pixels].reshape(-1, 1), gradients[image, pixels]
                fill_entries(index[some], share[some], places, weight, grid)
                to_matrix += linear(above.t(), _columns(index[some], share[some], rows).t())
                to_columns[some] = linear(above, matrix.t()).view(-1, rows.shape[1])
                to_share = products(to_columns[some], index[some], rows)
                for_weights, for_places = chain(to_share, places, weight)
                to_weights[image].flatten(1)[:, pixels] = for_weights.view(-1, TAPS).t()
                # chain gives (horizontal, vertical), offsets come the other way round
                moved = for_places.flip(-1).view(-1, 2 * TAPS)
                to_offsets[image].flatten(1)[:, pixels] = moved.t()
            copy_inner_cells(scatter(to_columns, index, share, len(rows)), to_tokens[image], grid)
        to_kernel = taps_of(to_matrix).to(kernel.dtype)
        return (
            to_tokens[:, :, 0].transpose(1, 2).unflatten(2, features.shape[2:]),
            to_offsets,
            to_weights,
            to_kernel,
            None,
        )


def _tokens(features: Tensor) -> Tensor:
    """Values (N, H W, 1, C) of maps (N, C, H, W): one level, one head."""
    return features.flatten(2).transpose(1, 2).unsqueeze(2)


def tap_matrix(kernel: Tensor) -> Tensor:
    """The kernel (C_out, C, 3, 3) as (C_out, 9 C), tap by tap like columns."""
    return kernel.permute(0, 2, 3, 1).flatten(1)


def taps_of(matrix: Tensor) -> Tensor:
    """The kernel (C_out, C, 3, 3) of a ``tap_matrix``."""
    return matrix.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)


def _columns(index: Tensor, share: Tensor, rows: Tensor) -> Tensor:
    """What the taps of n pixels see (n, 9 C)."""
    taps = F.embedding_bag(index, rows, mode="sum", per_sample_weights=share.to(rows))
    return taps.view(-1, TAPS * rows.shape[1])


def _places(offsets: Tensor, stride: int, grid: Grid) -> Iterator[tuple[slice, Places]]:
    """Where the taps (9 n, 1) of pixels look, chunk by chunk; offsets (18, H', W') of one image."""
    height, width = offsets.shape[1:]
    line = torch.arange(height, device=offsets.device).repeat_interleave(width)
    column = torch.arange(width, device=offsets.device).repeat(height)
    tap = torch.arange(TAPS, device=offsets.device)
    moved = offsets.flatten(1).t().unflatten(1, (TAPS, 2))  # (P, 9, 2)
    for start in range(0, height * width, CHUNK):
        some = slice(start, min(start + CHUNK, height * width))
        # In cells of the padded map: the padding of the convolution is its border.
        y = stride * line[some, None] + tap // 3 + moved[some, :, 0]
        x = stride * column[some, None] + tap % 3 + moved[some, :, 1]
        yield some, find_cells(x.view(-1, 1), y.view(-1, 1), grid)
