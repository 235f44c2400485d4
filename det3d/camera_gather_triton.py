"""Weighted sums of image features at projected points for CUDA, in Triton.

Not yet measured on a GPU. A program handles one group of channels of one scene for a block of
queries: it walks cameras and points, skips pairs that none of its queries sees, and keeps sums in
float32. Backward, gradients of the table are added atomically in float32; those of pixels and
weights belong to one program each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from detr2d.constants import constant
from detr2d.ops.sampling_triton import differentiate, find_cells, interpolate, level_tables

QUERIES = 4  # of a program: few, so that most cameras are skipped


@triton.jit
def _see(pixels, visible, pair, valid):
    """Which queries see the pair, x and y of its pixels, and whether any query does."""
    seen = valid & (tl.load(visible + pair, mask=valid, other=0) != 0)
    x = tl.load(pixels + 2 * pair, mask=seen, other=0.0).to(tl.float32)
    y = tl.load(pixels + 2 * pair + 1, mask=seen, other=0.0).to(tl.float32)
    return seen, x, y, tl.max(seen.to(tl.int32), axis=0) > 0


@triton.jit
def _level(sizes, starts, scales, level, image, num_images):
    """Height and width of a level, first table row of an image there, cells per pixel in x, y."""
    height, width = tl.load(sizes + 2 * level), tl.load(sizes + 2 * level + 1)
    before = tl.load(starts + level).to(tl.int64)
    row = before * num_images + image * height * width
    return height, width, row, tl.load(scales + 2 * level), tl.load(scales + 2 * level + 1)


@triton.jit
def _forward(
    table, sizes, starts, scales, pixels, weights, visible, sums,
    num_images, num_cameras, num_queries, heads, channels,
    num_levels: tl.constexpr, num_points: tl.constexpr,
    block_queries: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) * block_queries + tl.arange(0, block_queries)
    scene, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    lane, valid = tl.arange(0, block_channels), query < num_queries
    inner, stride = (lane < channels)[None, :], heads * channels
    total = tl.zeros((block_queries, block_channels), tl.float32)
    for camera in range(num_cameras):
        image = scene * num_cameras + camera
        bag = (image * num_queries + query) * heads + head
        for point in range(num_points):
            seen, x, y, any_seen = _see(pixels, visible, bag * num_points + point, valid)
            if any_seen:
                for level in range(num_levels):
                    height, width, row, x_scale, y_scale = _level(
                        sizes, starts, scales, level, image, num_images
                    )  # fmt: skip
                    place = (bag * num_levels + level) * num_points + point
                    weight = tl.load(weights + place, mask=seen, other=0.0).to(tl.float32)
                    left, top, right, down = find_cells(
                        x * x_scale - 0.5, y * y_scale - 0.5, height, width
                    )  # fmt: skip
                    total += weight[:, None] * interpolate(
                        table, row * stride + head * channels, left, top, right, down,
                        height, width, stride, lane, seen[:, None] & inner,
                    )  # fmt: skip
    target = ((scene * num_queries + query) * heads + head) * channels
    tl.store(sums + target[:, None] + lane[None, :], total, mask=valid[:, None] & inner)


@triton.jit
def _backward(
    gradient, table, sizes, starts, scales, pixels, weights, visible,
    to_table, to_pixels, to_weights,
    num_images, num_cameras, num_queries, heads, channels,
    num_levels: tl.constexpr, num_points: tl.constexpr,
    block_queries: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) * block_queries + tl.arange(0, block_queries)
    scene, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    lane, valid = tl.arange(0, block_channels), query < num_queries
    inner, stride = (lane < channels)[None, :], heads * channels
    source = (((scene * num_queries + query) * heads + head) * channels)[:, None] + lane[None, :]
    upstream = tl.load(gradient + source, mask=valid[:, None] & inner, other=0.0).to(tl.float32)
    for camera in range(num_cameras):
        image = scene * num_cameras + camera
        bag = (image * num_queries + query) * heads + head
        for point in range(num_points):
            pair = bag * num_points + point
            seen, x, y, any_seen = _see(pixels, visible, pair, valid)
            if any_seen:
                to_x = tl.zeros((block_queries,), tl.float32)
                to_y = tl.zeros((block_queries,), tl.float32)
                for level in range(num_levels):
                    height, width, row, x_scale, y_scale = _level(
                        sizes, starts, scales, level, image, num_images
                    )  # fmt: skip
                    place = (bag * num_levels + level) * num_points + point
                    weight = tl.load(weights + place, mask=seen, other=0.0).to(tl.float32)
                    left, top, right, down = find_cells(
                        x * x_scale - 0.5, y * y_scale - 0.5, height, width
                    )  # fmt: skip
                    _, to_weight, along, across = differentiate(
                        table, to_table, upstream, weight,
                        row * stride + head * channels, left, top, right, down,
                        height, width, stride, lane, seen[:, None] & inner,
                    )  # fmt: skip
                    to_x += along * x_scale
                    to_y += across * y_scale
                    tl.store(to_weights + place, to_weight, mask=seen)
                tl.store(to_pixels + 2 * pair, to_x, mask=seen)
                tl.store(to_pixels + 2 * pair + 1, to_y, mask=seen)


@torch.library.custom_op("det3d::gather_pairs", mutates_args=())
def gather_pairs(
    table: Tensor,
    sizes: Sequence[int],
    canvas: Sequence[int],
    pixels: Tensor,
    weights: Tensor,
    visible: Tensor,
) -> Tensor:
    """Sums (B, Q, C) as ``det3d.camera_gather.gather``, in the pixels' type.

    table (R, C) in any float type but float64; sizes: height, width of each level in one list;
    canvas: (height, width). Does not make the host wait.
    """
    sums = pixels.new_empty(pixels.shape[0], pixels.shape[2], table.shape[1])
    if sums.numel():
        _forward[_programs(pixels)](
            table.contiguous(), *_layout(sizes, canvas, table), *_pairs(pixels, weights, visible),
            sums, *_counts(table, pixels), **_constants(table, weights),
        )  # fmt: skip
    return sums


@torch.library.custom_op("det3d::gather_pairs_backward", mutates_args=())
def gather_pairs_backward(
    gradient: Tensor,
    table: Tensor,
    sizes: Sequence[int],
    canvas: Sequence[int],
    pixels: Tensor,
    weights: Tensor,
    visible: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of table, pixels and weights, zero for pairs that are not seen."""
    layout = torch.contiguous_format
    to_table = torch.zeros_like(table, dtype=torch.float32, memory_format=layout)
    to_pixels = torch.zeros_like(pixels, memory_format=layout)
    to_weights = torch.zeros_like(weights, memory_format=layout)
    if gradient.numel():
        _backward[_programs(pixels)](
            gradient.contiguous(), table.contiguous(), *_layout(sizes, canvas, table),
            *_pairs(pixels, weights, visible), to_table, to_pixels, to_weights,
            *_counts(table, pixels), **_constants(table, weights),
        )  # fmt: skip
    return to_table.to(table.dtype), to_pixels, to_weights


@gather_pairs.register_fake
def _(
    table: Tensor,
    sizes: Sequence[int],
    canvas: Sequence[int],
    pixels: Tensor,
    weights: Tensor,
    visible: Tensor,
) -> Tensor:
    return pixels.new_empty(pixels.shape[0], pixels.shape[2], table.shape[1])


@gather_pairs_backward.register_fake
def _(
    gradient: Tensor,
    table: Tensor,
    sizes: Sequence[int],
    canvas: Sequence[int],
    pixels: Tensor,
    weights: Tensor,
    visible: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    like = (table, pixels, weights)
    to_table, to_pixels, to_weights = (tensor.new_empty(tensor.shape) for tensor in like)
    return to_table, to_pixels, to_weights


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, ctx.sizes, ctx.canvas, pixels, weights, visible = inputs
    ctx.save_for_backward(table, pixels, weights, visible)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    table, pixels, weights, visible = ctx.saved_tensors
    to_table, to_pixels, to_weights = gather_pairs_backward(
        gradient, table, ctx.sizes, ctx.canvas, pixels, weights, visible
    )
    return to_table, None, None, to_pixels, to_weights, None


gather_pairs.register_autograd(_differentiate, setup_context=_save)


def _programs(pixels: Tensor) -> tuple[int, int]:
    return triton.cdiv(pixels.shape[2], QUERIES), pixels.shape[0] * pixels.shape[3]


def _layout(
    sizes: Sequence[int], canvas: Sequence[int], table: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sizes of levels, the cells of an image before each, and cells per pixel in x, y."""
    height, width = canvas
    scales = [
        scale
        for rows, columns in zip(sizes[::2], sizes[1::2], strict=True)
        for scale in (columns / width, rows / height)
    ]
    like = table.new_empty(0, dtype=torch.float32)
    return *level_tables(sizes, table), constant(tuple(scales), like)


def _pairs(pixels: Tensor, weights: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return pixels.contiguous(), weights.contiguous(), visible.contiguous().view(torch.uint8)


def _counts(table: Tensor, pixels: Tensor) -> tuple[int, int, int, int, int]:
    """Images, cameras of a scene, queries, heads, channels of a head."""
    num_scenes, num_cameras, num_queries, heads = pixels.shape[:4]
    return num_scenes * num_cameras, num_cameras, num_queries, heads, table.shape[1] // heads


def _constants(table: Tensor, weights: Tensor) -> dict[str, int]:
    _, _, _, heads, num_levels, num_points = weights.shape
    block = triton.next_power_of_2(table.shape[1] // heads)
    return {
        "num_levels": num_levels,
        "num_points": num_points,
        "block_queries": QUERIES,
        "block_channels": block,
        "num_warps": min(4, max(1, block // 64)),
    }
