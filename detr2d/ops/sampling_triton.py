"""Multi-scale deformable attention for CUDA, in Triton. Not yet measured on a GPU.

A program handles one head of one image for a block of queries and keeps their sums in float32.
Backward, gradients of values are added atomically in float32; those of locations and weights
belong to one program each. Its kernels are run on the CPU by Triton's interpreter in the tests.
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
def _corner(rows, line, column, height, width, stride, lane, inner, valid):
    """Offsets (queries, channels) of one cell per query, and which of them exist."""
    exists = valid & (line >= 0) & (line < height) & (column >= 0) & (column < width)
    cell = tl.where(exists, line * width + column, 0).to(tl.int64)
    offset = (rows + cell * stride)[:, None] + lane[None, :]
    return offset, exists[:, None] & inner[None, :]


@triton.jit
def _place(locations, weights, place, height, width, valid):
    """Upper left cell of each query's point, the parts to the next cells, and its weight."""
    x = tl.load(locations + 2 * place, mask=valid, other=0.0).to(tl.float32) * width - 0.5
    y = tl.load(locations + 2 * place + 1, mask=valid, other=0.0).to(tl.float32) * height - 0.5
    weight = tl.load(weights + place, mask=valid, other=0.0).to(tl.float32)
    # Far points become near ones that see nothing either; NaN goes on through the parts.
    near_x = tl.minimum(tl.maximum(x, -2.0), width + 1.0)
    near_y = tl.minimum(tl.maximum(y, -2.0), height + 1.0)
    left, top = tl.floor(near_x), tl.floor(near_y)
    right = tl.where(x == x, near_x, x) - left
    down = tl.where(y == y, near_y, y) - top
    return left.to(tl.int32), top.to(tl.int32), right, down, weight


@triton.jit
def _forward(
    value, sizes, starts, locations, weights, sums, num_queries, num_tokens, heads, channels,
    num_levels: tl.constexpr, num_points: tl.constexpr,
    block_queries: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) * block_queries + tl.arange(0, block_queries)
    image, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    lane, valid = tl.arange(0, block_channels), query < num_queries
    inner = lane < channels
    bag = (image * num_queries + query) * heads + head
    total = tl.zeros((block_queries, block_channels), tl.float32)
    for level in range(num_levels):
        height, width = tl.load(sizes + 2 * level), tl.load(sizes + 2 * level + 1)
        rows = ((image * num_tokens + tl.load(starts + level)) * heads + head) * channels
        for point in range(num_points):
            place = (bag * num_levels + level) * num_points + point
            left, top, right, down, weight = _place(locations, weights, place, height, width, valid)
            for corner in tl.static_range(4):
                row: tl.constexpr = corner // 2
                column: tl.constexpr = corner % 2
                offset, exists = _corner(
                    rows, top + row, left + column, height, width, heads * channels, lane, inner,
                    valid,
                )  # fmt: skip
                found = tl.load(value + offset, mask=exists, other=0.0).to(tl.float32)
                share = weight * (down if row else 1 - down) * (right if column else 1 - right)
                total += share[:, None] * found
    target = bag[:, None] * channels + lane[None, :]
    tl.store(sums + target, total, mask=valid[:, None] & inner[None, :])


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
    inner = lane < channels
    bag = (image * num_queries + query) * heads + head
    source = bag[:, None] * channels + lane[None, :]
    upstream = tl.load(gradient + source, mask=valid[:, None] & inner[None, :], other=0.0)
    upstream = upstream.to(tl.float32)
    for level in range(num_levels):
        height, width = tl.load(sizes + 2 * level), tl.load(sizes + 2 * level + 1)
        rows = ((image * num_tokens + tl.load(starts + level)) * heads + head) * channels
        for point in range(num_points):
            place = (bag * num_levels + level) * num_points + point
            left, top, right, down, weight = _place(locations, weights, place, height, width, valid)
            to_weight = tl.zeros((block_queries,), tl.float32)
            along = tl.zeros((block_queries,), tl.float32)
            across = tl.zeros((block_queries,), tl.float32)
            for corner in tl.static_range(4):
                row: tl.constexpr = corner // 2
                column: tl.constexpr = corner % 2
                offset, exists = _corner(
                    rows, top + row, left + column, height, width, heads * channels, lane, inner,
                    valid,
                )  # fmt: skip
                found = tl.load(value + offset, mask=exists, other=0.0).to(tl.float32)
                product = tl.sum(found * upstream, axis=1)
                vertical = down if row else 1 - down
                horizontal = right if column else 1 - right
                to_weight += product * vertical * horizontal
                along += product * vertical * (2 * column - 1)
                across += product * horizontal * (2 * row - 1)
                share = weight * vertical * horizontal
                tl.atomic_add(to_value + offset, share[:, None] * upstream, mask=exists)
            tl.store(to_weights + place, to_weight, mask=valid)
            tl.store(to_locations + 2 * place, along * weight * width, mask=valid)
            tl.store(to_locations + 2 * place + 1, across * weight * height, mask=valid)


def forward(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums (B, Q, heads * D), as ``deformable_sampling``."""
    batch, _, heads, channels = value.shape
    sums = value.new_empty(batch, locations.shape[1], heads * channels)
    if sums.numel():
        _forward[_programs(value, locations)](
            value.contiguous(), *_levels(sizes, value), locations.contiguous(),
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
            gradient.contiguous(), value.contiguous(), *_levels(sizes, value),
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


def _levels(sizes: Sequence[int], value: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of each level, and its first token, int32."""
    counts = [height * width for height, width in zip(sizes[::2], sizes[1::2], strict=True)]
    starts = (0, *accumulate(counts))[:-1]
    like = value.new_empty(0, dtype=torch.int32)
    return constant(tuple(sizes), like), constant(starts, like)
