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


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("relu", [True, False])
def test_gradients_are_those_of_the_definition(
    window: Window, dtype: torch.dtype, relu: bool
) -> None:
    leaves = [tensor.requires_grad_() for tensor in inputs(window, dtype)]
    exact = [tensor.detach().double().requires_grad_() for tensor in leaves]
    found = convolve(*leaves[:3], window, added=leaves[3], relu=relu)
    expected = convolve_plain(*exact[:3], window, added=exact[3], relu=relu)
    away = torch.randn_like(found) * (expected.abs() > 0.05)  # where rounding moves no sign
    found.backward(away)
    expected.backward(away.double())
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 0.1}[dtype]
    for ours, theirs in zip(leaves, exact, strict=True):
        assert ours.grad is not None and theirs.grad is not None and ours.grad.dtype == dtype
        torch.testing.assert_close(
            ours.grad.double(), theirs.grad, rtol=tolerance, atol=tolerance * theirs.grad.std()
        )


def test_one_large_tap_has_the_gradients_of_the_definition() -> None:
    images = torch.randn(2, 64, 24, 24).contiguous(memory_format=torch.channels_last)
    weight, bias, away = torch.randn(96, 64, 1, 1), torch.randn(96), torch.randn(2, 96, 24, 24)
    leaves = [tensor.requires_grad_() for tensor in (images, weight, bias)]
    found = torch.autograd.grad(convolve(*leaves, Window(), relu=False), leaves, away)
    expected = torch.autograd.grad(convolve_plain(*leaves, Window(), relu=False), leaves, away)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_only_what_is_asked_for_is_differentiated() -> None:
    images, weight, bias, added = inputs(WINDOWS[0], torch.float32)
    convolve(images, weight, bias.requires_grad_(), WINDOWS[0], added=added).sum().backward()
    assert bias.grad is not None and images.grad is None and weight.grad is None


def test_a_training_step_notices_nan() -> None:
    images, weight, bias, _ = inputs(WINDOWS[2], torch.float32)
    images[1, 3, 4, 4] = torch.nan
    found = convolve(images, weight.requires_grad_(), bias, WINDOWS[2])
    assert bool(found[1].isnan().any()) and not bool(found[0].isnan().any())


def test_no_image_at_all_has_no_output_and_zero_gradients() -> None:
    images, weight, bias, _ = inputs(WINDOWS[2], torch.float32)
    found = convolve(images[:0], weight.requires_grad_(), bias, WINDOWS[2])
    found.sum().backward()
    assert found.shape == (0, 24, 19, 14)
    assert weight.grad is not None and not bool(weight.grad.any())
