"""The CUDA kernels, run by Triton's interpreter on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from detr2d.backbones.deformable_conv import ModulatedDeformConv2d
from detr2d.ops.deformable_convolution import convolve_deformed
from detr2d.ops.deformable_convolution_torch import deform_plain
from tests.helpers.interpreter import (
    DTYPES,
    REGISTERED,
    check_close,
    check_interpreted,
    compiles,
)

kernels = pytest.importorskip("detr2d.ops.deformable_convolution_triton", reason="needs Triton")


def inputs(stride: int, images: int = 2, channels: int = 5) -> tuple[Tensor, ...]:
    """Features (N, C, 4, 7), offsets that also leave the map far, weights and kernel of six."""
    height, width = (4 + stride - 1) // stride, (7 + stride - 1) // stride
    offsets = torch.randn(images, 18, height, width) * 2
    offsets[:, :4, 0, 0] = torch.tensor([1e6, -3e5, 40.0, 2.0])
    features = torch.randn(images, channels, 4, 7)
    weights = torch.rand(images, 9, height, width)
    return features, offsets, weights, torch.randn(6, channels, 3, 3)


def gradients(convolve, stride: int, dtype: torch.dtype, tensors) -> tuple[Tensor, ...]:
    """The maps and the gradients of everything."""
    features, *rest = (tensor.detach().clone() for tensor in tensors)
    leaves = [t.requires_grad_() for t in (features.to(dtype), *rest)]
    found = convolve(*leaves, stride)
    upstream = torch.linspace(-1, 1, found.numel(), device=found.device).view(found.shape)
    return found.detach(), *torch.autograd.grad(found, leaves, upstream.to(dtype))


def interpreted_kernels_agree_with_the_definition() -> None:
    """With several chunks, whose last one is not full; both sides of the product are rounded."""
    for stride, (dtype, close) in zip((2, 1, 2), DTYPES, strict=True):
        tensors = inputs(stride)
        with patch.object(kernels, "BUFFER", 20 * 45):
            found = gradients(convolve_deformed, stride, dtype, tensors)
        check_close(found, gradients(deform_plain, stride, dtype, tensors), close)
        assert found[0].is_contiguous(memory_format=torch.channels_last)


def interpreted_channels_are_walked_in_blocks() -> None:
    tensors = inputs(2, images=1, channels=130)
    found = gradients(convolve_deformed, 2, torch.float32, tensors)
    check_close(found, gradients(deform_plain, 2, torch.float32, tensors), 1e-5)


def interpreted_nan_goes_on() -> None:
    features, offsets, weights, kernel = inputs(1, images=1)
    offsets[0, 0, 1, 2] = torch.nan
    maps = convolve_deformed(features, offsets, weights, kernel, 1).isnan()
    assert bool(maps[0, :, 1, 2].all()) and int(maps.sum()) == 6


def interpreted_no_image_has_no_output_and_zero_gradients() -> None:
    tensors = inputs(1, images=0)
    maps, *found = gradients(convolve_deformed, 1, torch.float32, tensors)
    assert maps.shape == (0, 6, 4, 7)
    assert not found[-1].any()


def interpreted_the_operator_is_registered_as_it_should_be() -> None:
    """Schema, autograd, shapes without values; and one graph, under autocast."""
    tensors = [tensor[:, :, :2, :2] for tensor in inputs(1, images=1)]
    leaves = [t.detach().clone().requires_grad_() for t in (*tensors[:3], inputs(1)[3])]
    torch.library.opcheck(kernels.deformable_convolution, (*leaves, 1), test_utils=REGISTERED)
    module, features = ModulatedDeformConv2d(5, 6, stride=2), torch.randn(1, 5, 4, 7)
    torch.nn.init.normal_(module.conv_offset.weight)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        maps = compiled(features.bfloat16())
        check_close(maps, module(features.bfloat16()), 1e-5)
    maps.float().square().sum().backward()
    assert module.weight.grad is not None and bool(module.weight.grad.any())


def test_kernels_agree_with_the_definition_in_the_interpreter() -> None:
    check_interpreted(__name__)


@pytest.mark.parametrize("kernel", ["_forward", "_backward"])
def test_kernels_compile_for_a_gpu(kernel: str) -> None:
    pointers = dict.fromkeys(("features", "columns", "to_columns"), "bf16")
    pointers |= dict.fromkeys(("offsets", "weights"), "fp32")
    pointers |= dict.fromkeys(("to_features", "to_offsets", "to_weights"), "fp32")
    sizes = {"block_pixels": 16, "block_channels": 128}
    # Triton knows numbers that are one when it compiles.
    assert compiles(getattr(kernels, kernel), pointers, step=1, **sizes)


@pytest.mark.gpu
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_agree_with_the_definition_on_a_gpu(dtype: torch.dtype, stride: int) -> None:
    tensors = [tensor.to("cuda") for tensor in inputs(stride, images=6, channels=256)]
    torch.backends.cuda.matmul.allow_tf32 = False
    found = gradients(convolve_deformed, stride, dtype, tensors)
    expected = gradients(deform_plain, stride, dtype, tensors)
    check_close(found, expected, 1e-4 if dtype == torch.float32 else 5e-2)
