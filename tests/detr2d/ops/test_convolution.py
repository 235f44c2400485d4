from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detr2d.ops.convolution import Window, convolve, convolve_plain

WINDOWS = [
    Window(),
    Window(stride=(2, 2)),
    Window(padding=(1, 1)),
    Window(stride=(2, 2), padding=(1, 1)),
    Window(padding=(2, 2), dilation=(2, 2)),
]


def inputs(window: Window, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    size = 3 if window.padding != (0, 0) else 1
    images = torch.randn(2, 16, 19, 14).to(memory_format=torch.channels_last)
    weight = torch.randn(24, 16, size, size).to(memory_format=torch.channels_last) / 8
    bias = torch.randn(24)
    added = torch.randn_like(convolve_plain(images, weight, bias, window))
    return tuple(tensor.to(dtype) for tensor in (images, weight, bias, added))  # type: ignore[return-value]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_added", [True, False])
def test_the_fused_step_is_its_definition(
    window: Window, dtype: torch.dtype, relu: bool, with_added: bool
) -> None:
    images, weight, bias, added = inputs(window, dtype)
    addition = added if with_added else None
    with torch.inference_mode():
        found = convolve(images, weight, bias, window, added=addition, relu=relu)
        exact = convolve_plain(
            *(tensor.double() for tensor in (images, weight, bias)),
            window,
            added=None if addition is None else addition.double(),
            relu=relu,
        )
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2}[dtype]
    assert found.dtype == dtype and found.shape == exact.shape
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


def test_what_is_added_is_not_changed() -> None:
    images, weight, bias, added = inputs(WINDOWS[0], torch.float32)
    before = added.clone()
    with torch.inference_mode():
        convolve(images, weight, bias, WINDOWS[0], added=added)
    assert torch.equal(added, before)


def test_outputs_stay_channels_last() -> None:
    images, weight, bias, _ = inputs(WINDOWS[2], torch.float32)
    with torch.inference_mode():
        found = convolve(images, weight, bias, WINDOWS[2])
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_compiled_program_takes_the_fused_step_whole() -> None:
    images, weight, bias, added = inputs(Window(padding=(1, 1)), torch.float32)
    step = torch.compile(convolve, backend="eager", fullgraph=True)
    with torch.inference_mode():
        found = step(images, weight, bias, Window(padding=(1, 1)), added=added)
        expected = convolve(images, weight, bias, Window(padding=(1, 1)), added=added)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
