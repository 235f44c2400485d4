"""Modulated deformable 3 x 3 convolution (DCNv2) for CUDA: columns by Triton, then a product.

Not yet measured on a GPU. What the nine taps of a pixel see is a row of columns, in the features'
type. Columns are nine times what the features are, so they are made for some pixels at a time and
again backward, where gradients of features are added atomically in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from detr2d.ops.deformable_convolution_cpu import TAPS, tap_matrix, taps_of
from detr2d.ops.sampling_triton import differentiate, find_cells, interpolate

PIXELS = 16  # of a program
BUFFER = 2**26  # entries of columns at once: 128 MiB in half precision


@triton.jit
def _tap(
    offsets, weights, pixel, tap, num_pixels, out_width, height, width, channels, step, valid
):  # fmt: skip
    """Where one tap of each pixel looks, its weight, and the places of both gradients."""
    image, inside = pixel // num_pixels, pixel % num_pixels
    move = (image * 18 + 2 * tap) * num_pixels + inside
    place = (image * 9 + tap) * num_pixels + inside
    y = tl.load(offsets + move, mask=valid, other=0.0).to(tl.float32)
    x = tl.load(offsets + move + num_pixels, mask=valid, other=0.0).to(tl.float32)
    weight = tl.load(weights + place, mask=valid, other=0.0).to(tl.float32)
    y += (step * (inside // out_width) + tap // 3 - 1).to(tl.float32)
    x += (step * (inside % out_width) + tap % 3 - 1).to(tl.float32)
    left, top, right, down = find_cells(x, y, height, width)
    rows = image * height * width * channels
    return rows, left, top, right, down, weight, move, place


@triton.jit
def _forward(
    features, offsets, weights, columns,
    first, last, num_pixels, out_width, height, width, channels, step,
    block_pixels: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    within = (tl.program_id(0) * block_pixels + tl.arange(0, block_pixels)).to(tl.int64)
    pixel, tap = first + within, tl.program_id(1)
    valid = pixel < last
    rows, left, top, right, down, weight, _, _ = _tap(
        offsets, weights, pixel, tap, num_pixels, out_width, height, width, channels, step, valid
    )  # fmt: skip
    for start in range(0, channels, block_channels):
        lane = start + tl.arange(0, block_channels)
        exists = valid[:, None] & (lane < channels)[None, :]
        values = interpolate(
            features, rows, left, top, right, down, height, width, channels, lane, exists
        )  # fmt: skip
        entry = ((within * 9 + tap) * channels)[:, None] + lane[None, :]
        tl.store(columns + entry, weight[:, None] * values, mask=exists)


@triton.jit
def _backward(
    features, offsets, weights, columns, to_columns, to_features, to_offsets, to_weights,
    first, last, num_pixels, out_width, height, width, channels, step,
    block_pixels: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    within = (tl.program_id(0) * block_pixels + tl.arange(0, block_pixels)).to(tl.int64)
    pixel, tap = first + within, tl.program_id(1)
    valid = pixel < last
    rows, left, top, right, down, weight, move, place = _tap(
        offsets, weights, pixel, tap, num_pixels, out_width, height, width, channels, step, valid
    )  # fmt: skip
    to_weight = tl.zeros((block_pixels,), tl.float32)
    to_x = tl.zeros((block_pixels,), tl.float32)
    to_y = tl.zeros((block_pixels,), tl.float32)
    for start in range(0, channels, block_channels):
        lane = start + tl.arange(0, block_channels)
        exists = valid[:, None] & (lane < channels)[None, :]
        entry = ((within * 9 + tap) * channels)[:, None] + lane[None, :]
        upstream = tl.load(to_columns + entry, mask=exists, other=0.0).to(tl.float32)
        values, share, along, across = differentiate(
            features, to_features, upstream, weight,
            rows, left, top, right, down, height, width, channels, lane, exists,
        )  # fmt: skip
        tl.store(columns + entry, weight[:, None] * values, mask=exists)
        to_weight += share
        to_x += along
        to_y += across
    tl.store(to_weights + place, to_weight, mask=valid)
    tl.store(to_offsets + move, to_y, mask=valid)
    tl.store(to_offsets + move + num_pixels, to_x, mask=valid)


@torch.library.custom_op("detr2d::deformable_convolution", mutates_args=())
def deformable_convolution(
    features: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, stride: int
) -> Tensor:
    """Maps (N, C_out, H', W') as ``detr2d.ops.deformable_convolution``, channels last.

    Columns and kernel are rounded to the features' type, products summed as the device does.
    """
    pixels = _pixels(features)
    matrix = tap_matrix(kernel).to(features.dtype)
    sampled = pixels, offsets.contiguous(), weights.contiguous()
    found = features.new_empty(_flat_size(offsets), len(kernel))
    for some in _chunks(offsets, matrix.shape[1]):
        columns = found.new_empty(some.stop - some.start, matrix.shape[1])
        _forward[_programs(some)](
            *sampled, columns, *_counts(some, offsets, pixels), stride, **_constants(pixels)
        )
        torch.mm(columns, matrix.t(), out=found[some])
    return found.view(len(features), *offsets.shape[2:], len(kernel)).permute(0, 3, 1, 2)


@torch.library.custom_op("detr2d::deformable_convolution_backward", mutates_args=())
def deformable_convolution_backward(
    gradient: Tensor,
    features: Tensor,
    offsets: Tensor,
    weights: Tensor,
    kernel: Tensor,
    stride: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of features, offsets, weights and kernel, from that of the maps."""
    pixels = _pixels(features)
    matrix = tap_matrix(kernel).to(features.dtype)
    above = _pixels(gradient).view(-1, len(kernel))
    sampled = pixels, offsets.contiguous(), weights.contiguous()
    to_pixels = torch.zeros_like(pixels, dtype=torch.float32)
    to_offsets = torch.empty_like(sampled[1])
    to_weights = torch.empty_like(sampled[2])
    to_matrix = torch.zeros_like(matrix, dtype=torch.float32)
    for some in _chunks(offsets, matrix.shape[1]):
        to_columns = above[some] @ matrix
        columns = torch.empty_like(to_columns)
        _backward[_programs(some)](
            *sampled, columns, to_columns, to_pixels, to_offsets, to_weights,
            *_counts(some, offsets, pixels), stride, **_constants(pixels),
        )  # fmt: skip
        to_matrix += above[some].t() @ columns
    to_features = to_pixels.to(features.dtype).permute(0, 3, 1, 2)
    return to_features, to_offsets, to_weights, taps_of(to_matrix).to(kernel.dtype).contiguous()


@deformable_convolution.register_fake
def _(features: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, stride: int) -> Tensor:
    batch, _, height, width = offsets.shape
    return features.new_empty(batch, height, width, kernel.shape[0]).permute(0, 3, 1, 2)


@deformable_convolution_backward.register_fake
def _(
    gradient: Tensor,
    features: Tensor,
    offsets: Tensor,
    weights: Tensor,
    kernel: Tensor,
    stride: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, channels, height, width = features.shape
    to_features = features.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)
    to_offsets, to_weights = offsets.new_empty(offsets.shape), weights.new_empty(weights.shape)
    return to_features, to_offsets, to_weights, kernel.new_empty(kernel.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, offsets, weights, kernel, ctx.stride = inputs
    ctx.save_for_backward(features, offsets, weights, kernel)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *deformable_convolution_backward(gradient, *ctx.saved_tensors, ctx.stride), None


deformable_convolution.register_autograd(_differentiate, setup_context=_save)


def _pixels(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) as (N, H, W, C) in memory; free for channels-last maps."""
    return maps.permute(0, 2, 3, 1).contiguous()


def _flat_size(offsets: Tensor) -> int:
    """Pixels of all images together."""
    return offsets.shape[0] * offsets.shape[2] * offsets.shape[3]


def _chunks(offsets: Tensor, columns: int) -> Iterator[slice]:
    """Pixels of all images, as many at once as fit into the buffer."""
    count, step = _flat_size(offsets), max(1, BUFFER // columns)
    return (slice(at, min(at + step, count)) for at in range(0, count, step))


def _programs(some: slice) -> tuple[int, int]:
    return triton.cdiv(some.stop - some.start, PIXELS), TAPS


def _counts(some: slice, offsets: Tensor, pixels: Tensor) -> tuple[int, ...]:
    """First and last pixel, pixels of an image, width of the output; height, width, channels."""
    height, width = offsets.shape[2:]
    return some.start, some.stop, height * width, width, *pixels.shape[1:]


def _constants(pixels: Tensor) -> dict[str, int]:
    block = min(128, triton.next_power_of_2(pixels.shape[3]))
    return {"block_pixels": PIXELS, "block_channels": block}
