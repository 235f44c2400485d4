"""The CUDA kernels, run by Triton's interpreter on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detr2d.ops.sampling import multi_scale_deformable_attention
from detr2d.ops.sampling_torch import sample_and_sum

pytest.importorskip("triton", reason="Triton is not installed")

PROGRAM = """
import torch
from detr2d.ops.sampling_torch import sample_and_sum
from detr2d.ops.sampling_triton import backward, forward

torch.manual_seed(0)
torch.set_num_threads(1)
shapes, sizes = ((5, 7), (2, 3)), [5, 7, 2, 3]
for dtype, close in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
    value = torch.randn(2, 41, 2, 6).to(dtype).requires_grad_()
    locations = (torch.rand(2, 3, 2, 2, 2, 2) * 1.6 - 0.3).requires_grad_()
    with torch.no_grad():
        locations[0, 0, 0, 0, 0] = torch.tensor([-30.0, 1e6])
    weights = torch.rand(2, 3, 2, 2, 2).requires_grad_()
    defined = sample_and_sum(value, shapes, locations, weights)
    upstream = torch.randn_like(defined)
    expected = torch.autograd.grad(defined, (value, locations, weights), upstream)
    tensors = value.detach(), sizes, locations.detach(), weights.detach()
    found = forward(*tensors)
    assert found.dtype == dtype
    torch.testing.assert_close(found, defined.detach(), atol=close, rtol=close)
    for ours, theirs in zip(backward(upstream, *tensors), expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, atol=10 * close, rtol=close)
print("agrees")
"""


def test_kernels_agree_with_the_definition_in_the_interpreter() -> None:
    """In a process of its own: the interpreter is chosen when Triton is imported."""
    root = Path(__file__).resolve().parents[3]
    settings = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=settings, capture_output=True, text=True, check=False
    )
    assert found.stdout == "agrees\n", found.stderr[-2000:]


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
