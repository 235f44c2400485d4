"""The CUDA kernels, run by Triton's interpreter on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import pytest
import torch

from detr2d.ops.sampling import multi_scale_deformable_attention
from detr2d.ops.sampling_torch import sample_and_sum
from tests.helpers.interpreter import DTYPES, check_close, check_interpreted, compiles

sampling_triton = pytest.importorskip("detr2d.ops.sampling_triton", reason="needs Triton")


def interpreted_kernels_agree_with_the_definition() -> None:
    shapes, sizes = ((5, 7), (2, 3)), [5, 7, 2, 3]
    for dtype, close in DTYPES:
        value = torch.randn(2, 41, 2, 6).to(dtype).requires_grad_()
        locations = (torch.rand(2, 3, 2, 2, 2, 2) * 1.6 - 0.3).requires_grad_()
        with torch.no_grad():
            locations[0, 0, 0, 0, 0] = torch.tensor([-30.0, 1e6])
        weights = torch.rand(2, 3, 2, 2, 2).requires_grad_()
        defined = sample_and_sum(value, shapes, locations, weights)
        upstream = torch.randn_like(defined)
        expected = torch.autograd.grad(defined, (value, locations, weights), upstream)
        tensors = value.detach(), sizes, locations.detach(), weights.detach()
        check_close(sampling_triton.forward(*tensors), defined.detach(), close)
        check_close(sampling_triton.backward(upstream, *tensors), expected, close)


def test_kernels_agree_with_the_definition_in_the_interpreter() -> None:
    check_interpreted(__name__)


@pytest.mark.parametrize("kernel", ["_forward", "_backward"])
def test_kernels_compile_for_a_gpu(kernel: str) -> None:
    words = "gradient sums locations weights to_value to_locations to_weights"
    pointers = dict.fromkeys(words.split(), "fp32") | {
        "value": "bf16", "sizes": "i32", "starts": "i32",
    }  # fmt: skip
    sizes = {"num_levels": 4, "num_points": 4, "block_queries": 16, "block_channels": 32}
    assert compiles(getattr(sampling_triton, kernel), pointers, **sizes)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_agree_with_the_definition_on_a_gpu(dtype: torch.dtype) -> None:
    shapes = ((60, 80), (30, 40), (15, 20))
    value = torch.randn(2, 6300, 8, 32, device="cuda", dtype=dtype).requires_grad_()
    locations = (torch.rand(2, 300, 8, 3, 4, 2, device="cuda") * 1.2 - 0.1).requires_grad_()
    weights = torch.rand(2, 300, 8, 3, 4, device="cuda").requires_grad_()
    leaves = (value, locations, weights)
    ours = multi_scale_deformable_attention(value, shapes, locations, weights)
    defined = sample_and_sum(value, shapes, locations, weights)
    upstream = torch.randn_like(ours)
    close = 1e-4 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(ours, defined, atol=close, rtol=close)
    found = torch.autograd.grad(ours, leaves, upstream)
    expected = torch.autograd.grad(defined, leaves, upstream)
    for gradient, wanted in zip(found, expected, strict=True):
        scale = float(wanted.abs().max())
        torch.testing.assert_close(gradient, wanted, atol=close * scale, rtol=close)
