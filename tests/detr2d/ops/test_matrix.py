from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from detr2d.ops import matrix
from detr2d.ops.matrix import linear


@pytest.mark.parametrize("shape", [(700, 64), (2, 350, 64), (2, 0, 64), (3, 64)], ids=str)
@pytest.mark.parametrize("num_outputs", [48, 160])  # fewer and more than inputs
@pytest.mark.parametrize("with_bias", [True, False])
def test_it_is_a_linear_map_forward_and_backward(
    shape: tuple[int, ...], num_outputs: int, with_bias: bool
) -> None:
    tokens, weight = torch.randn(shape), torch.randn(num_outputs, 64)
    leaves = [tokens.requires_grad_(), weight.requires_grad_()]
    leaves += [torch.randn(num_outputs, requires_grad=True)] * with_bias
    found, expected = linear(*leaves), F.linear(*leaves)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    away = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(output, leaves, away) for output in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_tokens_may_lie_across_memory() -> None:
    maps, weight = torch.randn(2, 64, 20, 20), torch.randn(96, 64)
    tokens = maps.flatten(2).transpose(1, 2).requires_grad_()
    found, expected = linear(tokens, weight), F.linear(tokens, weight)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    away = torch.randn(96, 2, 400).permute(1, 2, 0)
    (ours,), (theirs,) = (torch.autograd.grad(y, tokens, away) for y in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_the_result_may_be_changed_in_place() -> None:
    tokens, weight = torch.randn(2, 350, 64), torch.randn(48, 64, requires_grad=True)
    linear(tokens, weight).relu_().sum().backward()
    ours, weight.grad = weight.grad, None
    F.linear(tokens, weight).relu().sum().backward()
    torch.testing.assert_close(ours, weight.grad, rtol=1e-4, atol=1e-3)


def test_only_what_is_asked_for_is_differentiated() -> None:
    tokens, weight = torch.randn(700, 64), torch.randn(48, 64, requires_grad=True)
    linear(tokens, weight).sum().backward()
    assert weight.grad is not None and tokens.grad is None
    assert not linear(tokens, weight.detach()).requires_grad


def test_other_types_and_autocast_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "_product", None)  # calling it would fail
    tokens, weight = torch.randn(700, 64), torch.randn(48, 64)
    assert linear(tokens.double(), weight.double()).dtype == torch.float64
    assert linear(tokens[:3], weight).shape == (3, 48)  # too small to be worth it
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(tokens, weight).dtype == torch.bfloat16
