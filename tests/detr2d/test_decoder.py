from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detr2d.decoder import DecoderLayer, box_head, class_head, inverse_sigmoid, refine


class Nowhere(nn.Module):
    def forward(
        self, query: Tensor, query_pos: Tensor, reference: Tensor, memory: object
    ) -> tuple[Tensor, None]:
        return torch.zeros_like(query), None


def test_inverse_sigmoid_undoes_sigmoid_and_is_clamped() -> None:
    x = torch.linspace(-8, 8, 17, dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(x.sigmoid()), x)
    ends = inverse_sigmoid(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    torch.testing.assert_close(ends.abs(), torch.full((4,), 11.5129), atol=1e-3, rtol=0)


@pytest.mark.parity
def test_inverse_sigmoid_equals_the_official(parity: Path) -> None:
    fixture = np.load(parity / "ops3d/inverse_sigmoid.npz")
    torch.testing.assert_close(
        inverse_sigmoid(torch.tensor(fixture["x"])), torch.tensor(fixture["y64"])
    )


def test_zero_delta_keeps_the_reference() -> None:
    reference = torch.rand(2, 5, 3) * 0.98 + 0.01
    code = refine(torch.zeros(2, 5, 10), reference)
    torch.testing.assert_close(code[..., :3].sigmoid(), reference)
    assert code[..., 3:].abs().max() == 0


def test_new_heads_say_prior_and_reference() -> None:
    query = torch.randn(2, 5, 16)
    scores = class_head(16, 4, prior=0.01)(query).sigmoid()
    assert float(scores.mean().detach()) == pytest.approx(0.01, rel=0.5)
    assert box_head(16, 10)(query).abs().max() == 0


def test_layer_commutes_with_a_permutation_of_queries() -> None:
    layer = DecoderLayer(Nowhere(), channels=16, heads=2, hidden=32, dropout=0.0)
    query, position, reference = torch.randn(1, 6, 16), torch.randn(1, 6, 16), torch.rand(1, 6, 3)
    order = torch.randperm(6)
    plain, _ = layer(query, position, reference, None)
    moved, _ = layer(query[:, order], position[:, order], reference[:, order], None)
    torch.testing.assert_close(moved, plain[:, order])
