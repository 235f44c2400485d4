"""Multi-scale deformable attention for CPUs, without a compiler of its own.

Sampling and summing is one sparse product: a row for each query and head holds the shares of the
four cells around each of its points. Forward it is an ``embedding_bag``; the gradient of the shares
is a ``sampled_addmm``, and that of the values the transposed product, which scipy scatters without
writing out the updates first. A border of zeros around each map stands for everything outside, so
that nothing has to be masked; one table serves the images one after the other and stays in the
cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

CHUNK = 2**16  # points whose cells are computed at once: about what a core's cache holds


@dataclass(frozen=True)
class Grid:
    """Where the cells of all levels lie in a table with borders.

    width, height, stride, first (K,), one entry for each of the heads * levels * points = K points
    of a query: its level's size, the table rows from one line of cells to the next, and the row of
    the upper left corner of its level's border, for its head.
    """

    sizes: list[tuple[int, int]]
    heads: int
    width: Tensor
    height: Tensor
    stride: Tensor
    first: Tensor


@dataclass(frozen=True)
class Places:
    """Where n queries look.

    row (n, K) int32: the upper left one of four cells; right, down (n, K): the part of the way to
    the next cell, which does not lie in [0, 1] for points beyond the border.
    """

    row: Tensor
    right: Tensor
    down: Tensor


@torch.library.custom_op("detr2d::deformable_sampling", mutates_args=(), device_types="cpu")
def deformable_sampling(
    value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums (B, Q, heads * D); ``sizes``: height, width of each level in one list."""
    grid = lay_out(value, sizes, locations.shape[4])
    kind = grid.width.dtype
    sums = value.new_empty(*locations.shape[:2], value.shape[2] * value.shape[3], dtype=kind)
    for image, rows in enumerate(bordered_tables(value, grid, kind)):
        for chunk in _chunks(grid, locations.shape[1]):
            places = _locate(locations[image, chunk].to(kind), grid)
            index, share = empty_entries(len(places.row), grid)
            fill_entries(index, share, places, weights[image, chunk].to(kind), grid)
            bags = F.embedding_bag(index, rows, mode="sum", per_sample_weights=share)
            sums[image, chunk] = bags.view(-1, sums.shape[-1])
    return sums.to(value.dtype)


@torch.library.custom_op(
    "detr2d::deformable_sampling_backward", mutates_args=(), device_types="cpu"
)
def deformable_sampling_backward(
    gradient: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of values, locations and weights, from that of the sums (B, Q, heads * D)."""
    grid = lay_out(value, sizes, locations.shape[4])
    num_queries, channels, kind = locations.shape[1], value.shape[3], grid.width.dtype
    to_value = value.new_empty(value.shape)
    to_locations, to_weights = torch.empty_like(locations), torch.empty_like(weights)
    index, share = empty_entries(num_queries, grid)
    for image, rows in enumerate(bordered_tables(value, grid, kind)):
        bags = gradient[image].to(kind).reshape(-1, channels)
        for chunk in _chunks(grid, num_queries):
            places = _locate(locations[image, chunk].to(kind), grid)
            some = slice(chunk.start * grid.heads, chunk.stop * grid.heads)
            weight = weights[image, chunk].to(kind)
            fill_entries(index[some], share[some], places, weight, grid)
            to_share = products(bags[some], index[some], rows)
            found = chain(to_share, places, weight.flatten(1))
            steps = found[1] * torch.stack([grid.width, grid.height], -1)
            to_weights[image, chunk] = found[0].view(weight.shape)
            to_locations[image, chunk] = steps.view(*weight.shape, 2)
        copy_inner_cells(scatter(bags, index, share, len(rows)), to_value[image], grid)
    return to_value, to_locations, to_weights


@deformable_sampling.register_fake
def _(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(*locations.shape[:2], value.shape[2] * value.shape[3])


@deformable_sampling_backward.register_fake
def _(
    gradient: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), torch.empty_like(locations), torch.empty_like(weights)


def _save(ctx: Any, inputs: tuple[Tensor, Sequence[int], Tensor, Tensor], output: Tensor) -> None:
    value, ctx.sizes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    to_value, to_locations, to_weights = deformable_sampling_backward(
        gradient, value, ctx.sizes, locations, weights
    )
    return to_value, None, to_locations, to_weights


deformable_sampling.register_autograd(_backward, setup_context=_save)


def lay_out(value: Tensor, sizes: Sequence[int], points: int) -> Grid:
    """Layout of a table of maps with borders, for so many points on each of the levels."""
    pairs = list(zip(sizes[::2], sizes[1::2], strict=True))
    heads, levels = value.shape[2], len(pairs)
    first, columns = 0, []
    for height, width in pairs:
        columns.append((width, height, (width + 2) * heads, first * heads))
        first += (height + 2) * (width + 2)
    exact = torch.promote_types(value.dtype, torch.float32)
    layout = torch.tensor(columns).repeat_interleave(points, 0).repeat(heads, 1)  # (K, 4)
    head = torch.arange(heads).repeat_interleave(levels * points)
    return Grid(
        sizes=pairs,
        heads=heads,
        width=layout[:, 0].to(exact),
        height=layout[:, 1].to(exact),
        stride=layout[:, 2].int(),
        first=(layout[:, 3] + head).int(),
    )


def bordered_tables(value: Tensor, grid: Grid, kind: torch.dtype) -> Iterator[Tensor]:
    """A table (cells * heads, D) of type ``kind`` for each image, until the next is asked for."""
    num_cells = sum((height + 2) * (width + 2) for height, width in grid.sizes)
    table = value.new_zeros(num_cells * grid.heads, value.shape[3], dtype=kind)
    for maps in value:
        for inner, level in _inner_cells(table, maps, grid):
            inner.copy_(level)
        yield table


def copy_inner_cells(table: Tensor, maps: Tensor, grid: Grid) -> None:
    """Write to ``maps`` (N, heads, D) what a table (cells * heads, D) has inside its borders."""
    for inner, level in _inner_cells(table, maps, grid):
        level.copy_(inner)


def _inner_cells(table: Tensor, maps: Tensor, grid: Grid) -> Iterator[tuple[Tensor, Tensor]]:
    """Views (H, W, heads, D) of every level in the table and in the maps of an image."""
    bordered = table.unflatten(0, (-1, grid.heads)).split(
        [(height + 2) * (width + 2) for height, width in grid.sizes]
    )
    plain = maps.split([height * width for height, width in grid.sizes])
    for around, level, (height, width) in zip(bordered, plain, grid.sizes, strict=True):
        inner = around.unflatten(0, (height + 2, width + 2))[1:-1, 1:-1]
        yield inner, level.unflatten(0, (height, width))


def _chunks(grid: Grid, num_queries: int) -> list[slice]:
    step = max(1, CHUNK // len(grid.first))
    return [slice(at, min(at + step, num_queries)) for at in range(0, num_queries, step)]


def _locate(locations: Tensor, grid: Grid) -> Places:
    """Places of locations (n, heads, levels, points, 2)."""
    x, y = locations.flatten(1, 3).unbind(-1)
    return find_cells(x * grid.width + 0.5, y * grid.height + 0.5, grid)


def find_cells(x: Tensor, y: Tensor, grid: Grid) -> Places:
    """Places of points (n, K) in cells: the centre of a border's first cell is 0, 0."""
    # Unlike clamp, fmin and fmax give NaN a cell too; it goes on through the parts instead.
    column = torch.fmin(torch.fmax(x.floor(), x.new_zeros(())), grid.width)
    line = torch.fmin(torch.fmax(y.floor(), y.new_zeros(())), grid.height)
    row = grid.first + line.int() * grid.stride + column.int() * grid.heads
    return Places(row, x - column, y - line)


def empty_entries(num_queries: int, grid: Grid) -> tuple[Tensor, Tensor]:
    """Room for the rows, int32, and shares of all bags: (n * heads, 4 * levels * points) each."""
    shape = (num_queries * grid.heads, 4 * len(grid.first) // grid.heads)
    return torch.empty(shape, dtype=torch.int32), torch.empty(shape, dtype=grid.width.dtype)


def fill_entries(index: Tensor, share: Tensor, places: Places, weight: Tensor, grid: Grid) -> None:
    """Write the four cells of every point and their shares of its weight."""
    cells, parts = index.unflatten(1, (4, -1)), share.unflatten(1, (4, -1))
    right, down = places.right.clamp(0, 1), places.down.clamp(0, 1)
    weight = weight.flatten(1)
    lower = weight * down
    upper = weight - lower
    lower_right, upper_right = lower * right, upper * right
    below = places.row + grid.stride
    rows = (places.row, places.row + grid.heads, below, below + grid.heads)
    shares = (upper - upper_right, upper_right, lower - lower_right, lower_right)
    for corner, (row, part) in enumerate(zip(rows, shares, strict=True)):
        cells[:, corner] = row.view(len(cells), -1)
        parts[:, corner] = part.view(len(parts), -1)


def products(bags: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """Gradients of shares (bags, entries): products of the bags' gradients and their rows."""
    starts = torch.arange(0, index.numel() + 1, index.shape[1], dtype=torch.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that sparse tensors are a beta feature
        pattern = torch.sparse_csr_tensor(
            starts, index.flatten(), bags.new_zeros(index.numel()), (len(bags), len(rows))
        )
        found = torch.sparse.sampled_addmm(pattern, bags, rows.t(), beta=0.0)
    return found.values().view(index.shape)


def scatter(bags: Tensor, index: Tensor, share: Tensor, num_rows: int) -> Tensor:
    """Gradient (num_rows, D) of the table: to each row, its shares of the bags' gradients."""
    starts = torch.arange(0, index.numel() + 1, index.shape[1], dtype=torch.int32)
    entries = (share.flatten().numpy(), index.flatten().numpy(), starts.numpy())
    product = csr_array(entries, shape=(len(bags), num_rows)).T @ bags.numpy()
    return torch.from_numpy(product)


def chain(to_share: Tensor, places: Places, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weights (n, K) and of points in cells (n, K, 2), from those of the shares."""
    corners = to_share.unflatten(1, (4, -1)).unbind(1)
    upper_left, upper_right, lower_left, lower_right = (c.reshape(weight.shape) for c in corners)
    right, down = places.right.clamp(0, 1), places.down.clamp(0, 1)
    upper_step, lower_step = upper_right - upper_left, lower_right - lower_left
    upper, lower = upper_left + right * upper_step, lower_left + right * lower_step
    across, along = lower - upper, upper_step + down * (lower_step - upper_step)
    to_x = weight * along * (places.right == right)
    to_y = weight * across * (places.down == down)
    return upper + down * across, torch.stack([to_x, to_y], dim=-1)
