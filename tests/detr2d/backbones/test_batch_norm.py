from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from detr2d.backbones.batch_norm import BatchNorm2d


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
