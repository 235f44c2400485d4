"""The CUDA kernels, run by Triton's interpreter on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from det3d.camera_gather import CameraFeatures, camera_features, gather, gather_all
from tests.helpers.interpreter import (
    DTYPES,
    REGISTERED,
    check_close,
    check_interpreted,
    compiles,
)
from tests.helpers.rigs import ring_rig

kernels = pytest.importorskip("det3d.camera_gather_triton", reason="needs Triton")

SIZE = (64, 112)


def scene(
    scenes: int = 2, queries: int = 5, heads: int = 2, channels: int = 12, points: int = 2
) -> tuple[CameraFeatures, Tensor, Tensor, Tensor]:
    """Features of two levels and what ``gather`` takes, of three cameras a scene.

    Many points are outside, some far away; the first scene's second camera is absent, and its
    fifth query sees nothing.
    """
    maps = [torch.randn(3 * scenes, channels, 64 // s, 112 // s) for s in (8, 16)]
    features = camera_features(maps, ring_rig(3, scenes=scenes), SIZE)
    lead = (scenes, 3, queries, heads)
    pixels = torch.rand(*lead, points, 2) * torch.tensor([150.0, 90.0]) - 19
    visible = torch.rand(*lead, points) < 0.4
    visible[:1, 1] = False
    visible[:1, :, 4:] = False
    visible[:, 0, :1] = True
    pixels[:, 0, :1, 0, 0] = torch.tensor([1e6, -3e5])
    return features, pixels, torch.rand(*lead, 2, points), visible


def gradients(sample, features, pixels, weights, visible) -> tuple[Tensor, ...]:
    """Sums of a ``gather`` and its gradients of table, pixels and weights."""
    leaves = [t.detach().clone().requires_grad_() for t in (features.table, pixels, weights)]
    sums = sample(replace(features, table=leaves[0]), *leaves[1:], visible)
    upstream = torch.linspace(-1, 1, sums.numel(), device=sums.device).view_as(sums)
    return sums.detach(), *torch.autograd.grad(sums, leaves, upstream)


def in_type(features: CameraFeatures, dtype: torch.dtype) -> CameraFeatures:
    return replace(features, table=features.table.to(dtype))


def interpreted_kernels_agree_with_the_definition() -> None:
    for scenes, (dtype, close) in zip((2, 1, 1), DTYPES, strict=True):
        features, *aim = scene(scenes)
        found, expected = (
            gradients(sample, in_type(features, dtype), *aim) for sample in (gather, gather_all)
        )
        check_close(found, expected, close)
        unseen = ~aim[-1]
        assert not found[2][unseen].any()
        assert not found[3].transpose(-1, -2)[unseen].any()
        assert not found[0][0, 4].any()


def interpreted_one_wide_head_agrees() -> None:
    """As DETR3D looks: one head, one point, more channels than a block of one warp."""
    inputs = scene(heads=1, channels=70, points=1)
    check_close(gradients(gather, *inputs), gradients(gather_all, *inputs), 1e-5)


def interpreted_nan_stays_where_it_is_seen() -> None:
    features, pixels, weights, visible = scene(queries=2, points=1)
    visible[:, :, 0], visible[:, :, 1] = False, True
    pixels[:, :, 0], weights[:, :, 0] = torch.nan, torch.inf
    sums = gather(features, pixels, weights, visible)
    assert not sums[:, 0].any() and bool(sums.isfinite().all())
    pixels[0, 0, 1, 0, 0] = torch.nan
    sums = gather(features, pixels, weights, visible).unflatten(2, (2, 6)).isnan()
    assert bool(sums[0, 1, 0].all()) and int(sums.sum()) == 6


def interpreted_nothing_at_all_has_zero_gradients() -> None:
    for sizes in ({"scenes": 0}, {"queries": 0}, {"points": 0}):
        inputs = scene(**sizes) if "points" not in sizes else without_points()
        for tensor in gradients(gather, *inputs):
            assert not tensor.any()


def without_points() -> tuple[CameraFeatures, Tensor, Tensor, Tensor]:
    features, pixels, weights, visible = scene()
    return features, pixels[..., :0, :], weights[..., :0], visible[..., :0]


def interpreted_the_operator_is_registered_as_it_should_be() -> None:
    """Schema, autograd, shapes without values; and one graph, under autocast."""
    features, pixels, weights, visible = scene(queries=2, points=1)
    leaves = [t.requires_grad_() for t in (features.table, pixels, weights)]
    sizes = [side for size in features.level_sizes for side in size]
    inputs = (leaves[0], sizes, SIZE, *leaves[1:], visible)
    torch.library.opcheck(kernels.gather_pairs, inputs, test_utils=REGISTERED)
    compiled = torch.compile(gather, fullgraph=True, backend="aot_eager")
    expected = gradients(gather_all, features, pixels, weights, visible)
    with torch.autocast("cpu", torch.bfloat16):
        check_close(gradients(compiled, features, pixels, weights, visible), expected, 1e-5)


def test_kernels_agree_with_the_definition_in_the_interpreter() -> None:
    check_interpreted(__name__)


@pytest.mark.parametrize("kernel", ["_forward", "_backward"])
def test_kernels_compile_for_a_gpu(kernel: str) -> None:
    words = "gradient scales pixels weights sums to_table to_pixels to_weights"
    pointers = dict.fromkeys(words.split(), "fp32") | {
        "table": "bf16", "visible": "u8", "sizes": "i32", "starts": "i32",
    }  # fmt: skip
    sizes = {"num_levels": 4, "num_points": 1, "block_queries": 4, "block_channels": 256}
    # Triton knows numbers that are one when it compiles.
    assert compiles(getattr(kernels, kernel), pointers, heads=1, **sizes)


def test_shapes_that_do_not_fit_are_named() -> None:
    features, pixels, weights, visible = scene()
    with pytest.raises(ValueError, match=r"weights must have shape .* levels=2, P=2, got"):
        gather(features, pixels, weights[..., :1, :], visible)
    with pytest.raises(ValueError, match="5 heads cannot share 12 channels equally"):
        wide = (t[:, :, :, :1].expand(-1, -1, -1, 5, *t.shape[4:]) for t in (pixels, weights))
        gather(features, *wide, visible[:, :, :, :1].expand(-1, -1, -1, 5, -1))


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "points"), [(1, 1), (8, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_agree_with_the_definition_on_a_gpu(
    dtype: torch.dtype, heads: int, points: int
) -> None:
    features, *aim = scene(queries=300, heads=heads, channels=256, points=points)
    features, aim = in_type(features, dtype).to("cuda"), [t.to("cuda") for t in aim]
    expected = gradients(gather_all, features, *aim)
    gather(features, *aim)  # constants are uploaded once, kernels compiled
    torch.cuda.set_sync_debug_mode("error")  # nothing makes the host wait
    try:
        found = gradients(gather, features, *aim)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    check_close(found, expected, 1e-4 if dtype == torch.float32 else 5e-2)
