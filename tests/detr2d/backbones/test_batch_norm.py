from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from detr2d.backbones.batch_norm import (
    BatchNorm2d,
    FixedStatisticsNorm,
    FrozenBatchNorm2d,
    convolve_norm,
    convolve_then_norm,
)


def trained() -> BatchNorm2d:
    norm = BatchNorm2d(3)
    norm(torch.randn(4, 3, 5, 5) * 2 + 1)
    return norm


def test_ordinary_batches_are_normalised_as_torch_does() -> None:
    ours, theirs, maps = BatchNorm2d(3), nn.BatchNorm2d(3), torch.randn(2, 3, 4, 4)
    assert torch.equal(ours(maps), theirs(maps))
    assert torch.equal(ours(maps[:1, :, :1, :2]), theirs(maps[:1, :, :1, :2]))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (0, 3, 4, 4)])
def test_less_than_two_values_use_the_stored_statistics(shape: tuple[int, ...]) -> None:
    norm = trained()
    before = copy.deepcopy(norm.state_dict())
    maps = torch.randn(shape, requires_grad=True)
    found = norm(maps)
    found.sum().backward()
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(found, norm.eval()(maps), rtol=0, atol=0)
    assert norm.weight.grad is not None and bool(norm.weight.grad.isfinite().all())


def fixed(norm: nn.Module) -> nn.Module:
    """The norm with statistics, scale and shift that do something."""
    for name, tensor in norm.state_dict().items():
        nn.init.uniform_(tensor, *((0.5, 2.0) if name in ("weight", "running_var") else (-1, 1)))
    return norm


@pytest.mark.parametrize("norm", [FrozenBatchNorm2d(6), FixedStatisticsNorm(6)], ids=["", "scale"])
@pytest.mark.parametrize("with_added", [True, False])
def test_a_folded_norm_trains_as_one_behind_the_convolution(
    norm: nn.Module, with_added: bool
) -> None:
    convolution, norm = nn.Conv2d(4, 6, 3, padding=1, bias=False).double(), fixed(norm).double()
    images = torch.randn(2, 4, 7, 9, dtype=torch.float64, requires_grad=True)
    added = torch.randn(2, 6, 7, 9, dtype=torch.float64, requires_grad=True)
    expected = convolve_then_norm(convolution, norm, images, added if with_added else None)
    found = convolve_norm(convolution, norm, images, added if with_added else None)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    leaves = [images, *convolution.parameters(), *norm.parameters(), *([added] * with_added)]
    away = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(output, leaves, away) for output in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", [BatchNorm2d(6), nn.GroupNorm(2, 6)], ids=["batch", "group"])
def test_other_norms_follow_their_convolution(norm: nn.Module) -> None:
    convolution, images = nn.Conv2d(4, 6, 3, stride=2, bias=False), torch.randn(2, 4, 7, 9)
    added = torch.randn(2, 6, 3, 4)
    expected = norm(convolution(images)) + added
    torch.testing.assert_close(
        convolve_norm(convolution, norm, images, added, relu=False), expected
    )
    found = convolve_norm(convolution, norm, images, added)
    torch.testing.assert_close(found, expected.relu())


def test_under_autocast_maps_and_gradients_are_rounded_but_not_the_weights() -> None:
    convolution, norm = nn.Conv2d(16, 6, 3, bias=False), fixed(FrozenBatchNorm2d(6))
    images = torch.randn(1, 16, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve_norm(convolution, norm, images)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(
        found.float(), norm(convolution(images)).relu(), rtol=0.05, atol=0.05
    )
    found.float().square().sum().backward()
    assert convolution.weight.grad is not None and convolution.weight.grad.dtype == torch.float32
