from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from detr2d.ops import sampling_cpu
from detr2d.ops.sampling import multi_scale_deformable_attention
from detr2d.ops.sampling_torch import sample_and_sum

SHAPES = ((5, 7), (3, 4), (1, 2))
TOKENS = sum(height * width for height, width in SHAPES)
BOTH = pytest.mark.parametrize("function", [multi_scale_deformable_attention, sample_and_sum])


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations (some far outside) and weights for two images and three queries."""
    value = torch.randn(2, TOKENS, 2, 4, dtype=dtype)
    locations = torch.rand(2, 3, 2, 3, 2, 2, dtype=dtype) * 1.6 - 0.3
    locations[0, 0, 0, 0, 0] = torch.tensor([-30.0, 0.5])
    locations[0, 0, 0, 0, 1] = torch.tensor([0.4, 1e6])
    weights = torch.rand(2, 3, 2, 6, dtype=dtype).softmax(-1).unflatten(-1, (3, 2))
    return value, locations, weights


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


@BOTH
def test_gradients_are_those_of_the_function(function) -> None:
    value, locations, weights = leaves(*inputs())

    def run(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return function(value, SHAPES, locations, weights)

    assert torch.autograd.gradcheck(run, (value, locations, weights))


@pytest.mark.parametrize("chunk", [1, 30, 2**16])
def test_cpu_twin_and_definition_agree(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(sampling_cpu, "CHUNK", chunk)
    tensors = inputs()
    upstream = torch.randn(2, 3, 8, dtype=torch.float64)
    found = []
    for function in (multi_scale_deformable_attention, sample_and_sum):
        value, locations, weights = leaves(*tensors)
        output = function(value, SHAPES, locations, weights)
        output.backward(upstream)
        found.append((output.detach(), value.grad, locations.grad, weights.grad))
    for ours, defined in zip(*found, strict=True):
        torch.testing.assert_close(ours, defined, rtol=1e-12, atol=1e-12)


@BOTH
def test_the_centre_of_a_cell_gives_its_value_and_outside_is_zero(function) -> None:
    value = torch.arange(6.0).view(1, 6, 1, 1)  # 2 rows of 3
    places = torch.tensor([[0.5 / 3, 0.25], [2.5 / 3, 0.75], [1 / 3, 0.5], [0.0, 0.25], [2.0, 0.5]])
    locations = places.view(1, 5, 1, 1, 1, 2)
    found = function(value, ((2, 3),), locations, torch.ones(1, 5, 1, 1, 1))
    # The third lies between four cells; the fourth half a cell outside, where zeros begin.
    assert found.flatten().tolist() == pytest.approx([0.0, 5.0, 2.0, 0.0, 0.0], abs=1e-6)
    one = function(value + 1, ((2, 3),), locations[:, 3:4], torch.ones(1, 1, 1, 1, 1))
    assert float(one) == pytest.approx(0.5)


@pytest.mark.parity
@BOTH
def test_official_operator_case(parity: Path, function) -> None:
    with np.load(parity / "ms_deform_attn_case.npz") as file:
        case = {name: torch.from_numpy(file[name]) for name in file.files}
    shapes = tuple((height, width) for height, width in case["spatial_shapes"].tolist())
    names = ("value", "sampling_locations", "attention_weights")
    value, locations, weights = leaves(*(case[name] for name in names))
    output = function(value, shapes, locations, weights)
    torch.testing.assert_close(output, case["output"], rtol=1e-10, atol=1e-10)
    output.backward(case["grad_output"])
    for name, leaf in zip(names, (value, locations, weights), strict=True):
        torch.testing.assert_close(leaf.grad, case[f"grad_{name}"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_values_are_summed_in_float32(dtype: torch.dtype) -> None:
    value, locations, weights = inputs(torch.float32)
    half = value.to(dtype)
    half.requires_grad_()
    found = multi_scale_deformable_attention(half, SHAPES, locations, weights)
    exact = multi_scale_deformable_attention(half.float(), SHAPES, locations, weights)
    assert found.dtype == dtype
    assert torch.equal(found, exact.to(dtype))
    found.sum().backward()
    assert half.grad is not None and half.grad.dtype == dtype


def test_autocast_leaves_geometry_alone() -> None:
    value, locations, weights = leaves(*inputs(torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        found = multi_scale_deformable_attention(value, SHAPES, locations, weights)
    plain = multi_scale_deformable_attention(value, SHAPES, locations, weights)
    assert torch.equal(found, plain)


def test_no_queries_give_no_sums() -> None:
    value, locations, weights = leaves(*inputs(torch.float32))
    found = multi_scale_deformable_attention(value, SHAPES, locations[:, :0], weights[:, :0])
    assert found.shape == (2, 0, 8)
    found.sum().backward()
    assert value.grad is not None and not bool(value.grad.any())


def test_nan_spreads_and_reads_no_foreign_memory() -> None:
    value, locations, weights = inputs(torch.float32)
    locations[1, 2, 0, 0, 0, 0] = float("nan")
    found = multi_scale_deformable_attention(value, SHAPES, locations, weights)
    assert bool(found[1, 2, :4].isnan().all())
    assert bool(found[0].isfinite().all()) and bool(found[1, :2].isfinite().all())


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"spatial_shapes": ((5, 7), (3, 4))},
            r"value must have shape \(B N heads D\) with B=2, N=47",
        ),
        ({"locations": torch.zeros(2, 3, 2, 3, 2, 3)}, "sampling_locations must have shape"),
        ({"weights": torch.zeros(2, 3, 2, 3, 1)}, r"attention_weights .* points=2"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change: dict, message: str) -> None:
    value, locations, weights = inputs(torch.float32)
    with pytest.raises(ValueError, match=message):
        multi_scale_deformable_attention(
            value,
            change.get("spatial_shapes", SHAPES),
            change.get("locations", locations),
            change.get("weights", weights),
        )


class Sampler(torch.nn.Module):
    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return multi_scale_deformable_attention(value * 2, SHAPES, locations, weights)


def test_compiles_into_one_graph_with_gradients() -> None:
    compiled = torch.compile(Sampler(), fullgraph=True, backend="aot_eager")
    first, second = leaves(*inputs(torch.float32)), None
    second = leaves(*first)
    compiled(*first).square().sum().backward()
    Sampler()(*second).square().sum().backward()
    for ours, expected in zip(first, second, strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)


def test_exports() -> None:
    tensors = inputs(torch.float32)
    program = torch.export.export(Sampler(), tensors)
    torch.testing.assert_close(program.module()(*tensors), Sampler()(*tensors))
