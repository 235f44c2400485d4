"""Multi-scale deformable attention: the one function that everybody calls."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from detr2d.ops.sampling_cpu import deformable_sampling
from detr2d.ops.sampling_torch import sample_and_sum
from detr2d.ops.triton_devices import HAS_TRITON, triton_serves
from detr2d.structures import check_shape

if HAS_TRITON:
    from detr2d.ops import sampling_triton

    sampling_triton.register()


def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum of values sampled at a few points on every level: (B, Q, heads * D).

    Deformable DETR (Zhu et al., ICLR 2021), eq. 3, between its linear layers. value
    (B, N, heads, D): maps one after the other, each row by row; spatial_shapes: (height, width) of
    each, N cells in all; sampling_locations (B, Q, heads, levels, points, 2): (x, y) on the canvas,
    0 and 1 at its edges, float32 even where the values are not; attention_weights
    (B, Q, heads, levels, points), as they are: whoever calls normalises them. Values are
    interpolated bilinearly between cell centres and are zero outside. Sums are made in float32 at
    least and returned in the values' type.

    Works under autocast, ``torch.compile(fullgraph=True)`` and ``torch.export``. Raises ValueError
    if shapes do not fit.
    """
    _check(value, spatial_shapes, sampling_locations, attention_weights)
    if value.device.type == "cpu" or triton_serves(value):
        sizes = [side for shape in spatial_shapes for side in shape]
        return deformable_sampling(value, sizes, sampling_locations, attention_weights)
    return sample_and_sum(value, spatial_shapes, sampling_locations, attention_weights)


def _check(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    sizes = {"levels": len(spatial_shapes), "N": sum(h * w for h, w in spatial_shapes)}
    check_shape("value", value, "B N heads D", sizes)
    check_shape("sampling_locations", sampling_locations, "B Q heads levels points 2", sizes)
    check_shape("attention_weights", attention_weights, "B Q heads levels points", sizes)
