"""Compiled prediction: the same outputs, few programs, and errors in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from detr2d.benchmark.subjects import noise_batch
from detr2d.compiled import STEP, check_compiler, compile_prediction
from detr2d.inference import prepare_inference
from detr2d.structures import ImageBatch, Predictions
from tests.helpers.toy_configs import small_systems

CPU = torch.device("cpu")
SIZES = ((64, 96), (96, 64), (128, 128))  # of one bucket


def model() -> nn.Module:
    torch.manual_seed(0)
    built = small_systems()["detr"].build(tuple(str(number) for number in range(91)))
    for parameter in built.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.1)
    return built


def counted(graphs: list[Any]) -> Callable[..., Any]:
    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    return backend


def test_canvases_of_one_bucket_share_programs_and_predict_as_uncompiled() -> None:
    plain, graphs = prepare_inference(model(), "float32", CPU), []
    compiled = compile_prediction(plain, CPU, backend=counted(graphs))
    numbers = []
    with torch.inference_mode():
        for size in SIZES:
            batch = noise_batch(size, images=2, objects=3)
            assert_same(compiled(batch), plain(batch.on_canvas(STEP)))
            numbers.append(len(graphs))
        compiled(noise_batch((130, 128), images=2, objects=0))
    assert numbers[0] > 0 and len(set(numbers)) == 1
    assert len(graphs) > numbers[0]


def assert_same(found: Predictions, expected: Predictions) -> None:
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.codes, expected.codes, rtol=1e-4, atol=1e-4)


def test_padding_to_a_bucket_is_masked() -> None:
    """What stands there is not looked at, and an image that fills its bucket is not changed."""
    predict = prepare_inference(model(), "float32", CPU)
    batch = noise_batch((64, 96), images=1, objects=0)
    padded = batch.on_canvas(STEP)
    assert padded.images.shape[-2:] == (STEP, STEP)
    assert torch.equal(padded.images[..., :64, :96], batch.images)
    assert torch.equal(padded.image_sizes, batch.image_sizes)
    noisy = replace(padded, images=padded.images.clone())
    noisy.images[..., 64:, :] = 200
    noisy.images[..., 96:] = 100
    with torch.inference_mode():
        assert_same(predict(noisy), predict(padded))
    full: ImageBatch = noise_batch((STEP, 2 * STEP), images=1, objects=0)
    assert torch.equal(full.on_canvas(STEP).images, full.images)


def test_a_missing_compiler_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no-such-compiler is not found: install it, name another"):
        check_compiler(CPU)
    with pytest.raises(ValueError, match=r"leave train\.compiled off"):
        prepare_inference(model(), "float32", CPU, compiled=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_programs_in_cpp_predict_as_uncompiled() -> None:
    check_compiler(CPU)
    batch = noise_batch((64, 96), images=2, objects=0)
    with torch.inference_mode():
        expected = prepare_inference(model(), "float32", CPU)(batch.on_canvas(STEP))
        assert_same(prepare_inference(model(), "float32", CPU, compiled=True)(batch), expected)
