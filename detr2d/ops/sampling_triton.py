"""Multi-scale deformable attention for CUDA, in Triton. Not yet measured on a GPU.

A program handles one head of one image for a block of queries and keeps their sums in float32.
Backward, gradients of values are added atomically in float32; those of locations and weights
belong to one program each. Its kernels are run on the CPU by Triton's interpreter in the tests.
``find_cells``, ``interpolate`` and ``differentiate`` serve other kernels that sample maps, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from detr2d.constants import constant
from detr2d.ops.sampling_cpu import deformable_sampling, deformable_sampling_backward

QUERIES = 16  # of a program


@triton.jit
def find_cells(x, y, height, width):
    """Upper left cell of each point, and the parts of the way to the next; 0, 0 is a centre."""
    # Far points become near ones that see nothing either; NaN goes on through the parts.
    near_x = tl.minimum(tl.maximum(x, -2.0), width + 1.0)
    near_y = tl.minimum(tl.maximum(y, -2.0), height + 1.0)
    left, top = tl.floor(near_x), tl.floor(near_y)
    right = tl.where(x == x, near_x, x) - left
    down = tl.where(y == y, near_y, y) - top
    return left.to(tl.int32), top.to(tl.int32), right, down


@triton.jit
def _corner(rows, line, column, height, width, stride, lane, exists):
    """Offsets (points, channels) of one cell per point, and which of them exist."""
    inside = (line >= 0) & (line < height) & (column >= 0) & (column < width)
    cell = tl.where(inside, line * width + column, 0).to(tl.int64)
    return (rows + cell * stride)[:, None] + lane[None, :], inside[:, None] & exists


@triton.jit
def interpolate(table, rows, left, top, right, down, height, width, stride, lane, exists):
    """Values (points, channels) between four cells each, zero outside the map.

    rows: offset of the map's first cell; stride: from one cell to the next; lane: the channels;
    exists (points, channels): what is to be read at all.
    """
    values = tl.zeros(exists.shape, tl.float32)
    for corner in tl.static_range(4):
        row, column = corner // 2, corner % 2  # no annotation: those can be set only once
        offset, there = _corner(
            rows, top + row, left + column, height, width, stride, lane, exists
        )  # fmt: skip
        found = tl.load(table + offset, mask=there, other=0.0).to(tl.float32)
        share = (down if row else 1 - down) * (right if column else 1 - right)
        values += share[:, None] * found
    return values


@triton.jit
def differentiate(
    table, to_table, upstream, weight,
    rows, left, top, right, down, height, width, stride, lane, exists,
):  # fmt: skip
    """Backward of ``weight`` times ``interpolate``, from the gradient of the product.

    Adds to the gradient of the table. Returns the values again, and for each point the gradients
    of its weight and of its place, x and y in cells.
    """
    values = tl.zeros(exists.shape, tl.float32)
    to_weight = tl.zeros(weight.shape, tl.float32)
    to_x = tl.zeros(weight.shape, tl.float32)
    to_y = tl.zeros(weight.shape, tl.float32)
    for corner in tl.static_range(4):
        row, column = corner // 2, corner % 2  # no annotation: those can be set only once
        offset, there = _corner(
            rows, top + row, left + column, height, width, stride, lane, exists
        )  # fmt: skip
        found = tl.load(table + offset, mask=there, other=0.0).to(tl.float32)
        product = tl.sum(found * upstream, axis=1)
        vertical = down if row else 1 - down
        horizontal = right if column else 1 - right
        share = vertical * horizontal
        values += share[:, None] * found
        to_weight += product * share
        to_x += product * vertical * (2 * column - 1)
        to_y += product * horizontal * (2 * row - 1)
        tl.atomic_add(to_table + offset, (weight * share)[:, None] * upstream, mask=there)
    return values, to_weight, to_x * weight, to_y * weight


@triton.jit
def _place(locations, weights, place, height, width, valid):
    """Each query's point in cells, and its weight."""
    x = tl.load(locations + 2 * place, mask=valid, other=0.0).to(tl.float32) * width - 0.5
    y = tl.load(locations + 2 * place + 1, mask=valid, other=0.0).to(tl.float32) * height - 0.5
    return x, y, tl.load(weights + place, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def _forward(
    value, sizes, starts, locations, weights, sums, num_queries, num_tokens, heads, channels,
    num_levels: tl.constexpr, num_points: tl.constexpr,
    block_queries: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) * block_queries + tl.arange(0, block_queries)
    image, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    lane, valid = tl.arange(0, block_channels), query < num_queries
    exists = valid[:, None] & (lane < channels)[None, :]
    bag = (image * num_queries + query) * heads + head
    total = tl.zeros((block_queries, block_channels), tl.float32)
    for level in range(num_levels):
        height, width = tl.load(sizes + 2 * level), tl.load(sizes + 2 * level + 1)
        rows = ((image * num_tokens + tl.load(starts + level)) * heads + head) * channels
        for point in range(num_points):
            place = (bag * num_levels + level) * num_points + point
            x, y, weight = _place(locations, weights, place, height, width, valid)
            left, top, right, down = find_cells(x, y, height, width)
            total += weight[:, None] * interpolate(
                value, rows, left, top, right, down, height, width, heads * channels, lane, exists
            )  # fmt: skip
    tl.store(sums + bag[:, None] * channels + lane[None, :], total, mask=exists)


@triton.jit
def _backward(
    gradient, value, sizes, starts, locations, weights, to_value, to_locations, to_weights,
    num_queries, num_tokens, heads, channels,
    num_levels: tl.constexpr, num_points: tl.constexpr,
    block_queries: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) * block_queries + tl.arange(0, block_queries)
    image, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    lane, valid = tl.arange(0, block_channels), query < num_queries
    exists = valid[:, None] & (lane < channels)[None, :]
    bag = (image * num_queries + query) * heads + head
    source = bag[:, None] * channels + lane[None, :]
    upstream = tl.load(gradient + source, mask=exists, other=0.0).to(tl.float32)
    for level in range(num_levels):
        height, width = tl.load(sizes + 2 * level), tl.load(sizes + 2 * level + 1)
        rows = ((image * num_tokens + tl.load(starts + level)) * heads + head) * channels
        for point in range(num_points):
            place = (bag * num_levels + level) * num_points + point
            x, y, weight = _place(locations, weights, place, height, width, valid)
            left, top, right, down = find_cells(x, y, height, width)
            _, to_weight, to_x, to_y = differentiate(
                value, to_value, upstream, weight,
                rows, left, top, right, down, height, width, heads * channels, lane, exists,
            )  # fmt: skip
            tl.store(to_weights + place, to_weight, mask=valid)
            tl.store(to_locations + 2 * place, to_x * width, mask=valid)
            tl.store(to_locations + 2 * place + 1, to_y * height, mask=valid)


def forward(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums (B, Q, heads * D), as ``deformable_sampling``."""
    batch, _, heads, channels = value.shape
    sums = value.new_empty(batch, locations.shape[1], heads * channels)
    if sums.numel():
        _forward[_programs(value, locations)](
            value.contiguous(), *level_tables(sizes, value), locations.contiguous(),
            weights.contiguous(), sums, locations.shape[1], value.shape[1], heads, channels,
            **_constants(value, locations),
        )  # fmt: skip
    return sums


def backward(
    gradient: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of values, locations and weights, as ``deformable_sampling_backward``."""
    _, num_tokens, heads, channels = value.shape
    to_value = torch.zeros_like(value, dtype=torch.float32, memory_format=torch.contiguous_format)
    to_locations = torch.empty_like(locations, memory_format=torch.contiguous_format)
    to_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
    if gradient.numel():
        _backward[_programs(value, locations)](
            gradient.contiguous(), value.contiguous(), *level_tables(sizes, value),
            locations.contiguous(), weights.contiguous(), to_value, to_locations, to_weights,
            locations.shape[1], num_tokens, heads, channels, **_constants(value, locations),
        )  # fmt: skip
    return to_value.to(value.dtype), to_locations, to_weights


def register() -> None:
    """Let the operator use these kernels for tensors on CUDA devices."""
    deformable_sampling.register_kernel("cuda")(forward)
    deformable_sampling_backward.register_kernel("cuda")(backward)


def _programs(value: Tensor, locations: Tensor) -> tuple[int, int]:
    return triton.cdiv(locations.shape[1], QUERIES), value.shape[0] * value.shape[2]


def _constants(value: Tensor, locations: Tensor) -> dict[str, int]:
    return {
        "num_levels": locations.shape[3],
        "num_points": locations.shape[4],
        "block_queries": QUERIES,
        "block_channels": triton.next_power_of_2(value.shape[3]),
    }


def level_tables(sizes: Sequence[int], value: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of each level, and how many cells come before it, int32."""
    counts = [height * width for height, width in zip(sizes[::2], sizes[1::2], strict=True)]
    starts = (0, *accumulate(counts))[:-1]
    like = value.new_empty(0, dtype=torch.int32)
    return constant(tuple(sizes), like), constant(starts, like)
