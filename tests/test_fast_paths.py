"""Every fast path computes what the plain one does, forward and backward, for every system.

Single operators have tests of their own beside their definitions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detr2d.benchmark.subjects import noise_batch, randomize_norms
from detr2d.inference import prepare_inference, with_precision
from detr2d.structures import Predictions
from tests.det3d.test_budgets import SYSTEMS as SYSTEMS_3D
from tests.detr2d.test_budgets import SYSTEMS as SYSTEMS_2D
from tests.helpers.rigs import random_scene

CPU = torch.device("cpu")
NAMES = ("detr", "deformable", "dino", "detr3d", "petr", "petrv2")
systems = pytest.mark.parametrize("name", NAMES)


def build(name: str) -> tuple[nn.Module, Any]:
    """A small system whose every part counts, and a batch for it."""
    torch.manual_seed(0)
    if name in SYSTEMS_2D:
        model = SYSTEMS_2D[name].build(tuple(str(number) for number in range(91)))
        batch: Any = noise_batch((64, 96), images=2, objects=4)
    else:
        model = SYSTEMS_3D[name].build(tuple(f"class{number}" for number in range(10)))
        scene = random_scene(6, scenes=2)
        times = torch.tensor([0.0, 0, 0, -0.5, -0.5, -0.5]).double().expand(2, 6)  # PETRv2's halves
        batch = replace(scene, rig=replace(scene.rig, timestamps=times))
    randomize_norms(model)
    for key, parameter in model.named_parameters():
        if not parameter.any():  # heads that begin at the references
            nn.init.normal_(parameter, std=0.02)
        parameter.requires_grad_("points" not in key)
    return model.eval(), batch


def assert_near(found: Predictions, expected: Predictions, limit: float) -> None:
    """Compare the last layer's logits and codes, in standard deviations of what is expected."""
    pairs = ((found.logits[-1], expected.logits[-1]), (found.codes[-1], expected.codes[-1]))
    for ours, theirs in pairs:
        assert float(((ours - theirs).abs().max() / theirs.std()).detach()) < limit


def gradients(model: nn.Module, predictions: Predictions) -> Iterator[Tensor]:
    """Gradients of all weights that smooth functions of the last layer's outputs reach."""
    last = predictions.logits[-1].float(), predictions.codes[-1].float()
    model.zero_grad()
    sum(values.sin().sum() for values in last).backward()
    return (p.grad for p in model.parameters() if p.grad is not None)


@systems
def test_prepared_models_predict_the_same_twice(name: str) -> None:
    """Norms folded, oneDNN's fused convolutions, and what the rig's last frame computed."""
    model, batch = build(name)
    predict = prepare_inference(copy.deepcopy(model), "float32", CPU)
    with torch.inference_mode():
        expected = model(batch)
        assert_near(predict(batch), expected, 2e-3)
        assert_near(predict(batch), expected, 2e-3)


@systems
def test_layouts_of_images_have_the_same_gradients(name: str) -> None:
    """Channels last, as models lay them out, against channels first."""
    model, batch = build(name)
    fast = model(batch)
    expected = [grad.clone() for grad in gradients(model, fast)]
    plain = copy.deepcopy(model)
    layouts = []

    def channels_first(module: nn.Module, inputs: Any, images: Tensor) -> Tensor:
        layouts.append(images.is_contiguous(memory_format=torch.channels_last))
        return images.contiguous()

    plain.get_submodule("normalize").register_forward_hook(channels_first)
    slow = plain(batch)
    assert layouts and all(layouts)
    assert_near(fast, slow, 2e-3)
    for ours, theirs in zip(expected, gradients(plain, slow), strict=True):
        assert float((ours - theirs).norm()) <= 5e-3 * float(theirs.norm()) + 1e-5


@systems
def test_bfloat16_has_nearly_the_same_gradients(name: str) -> None:
    model, batch = build(name)
    exact = torch.cat([grad.flatten() for grad in gradients(model, model(batch))])
    rounded = gradients(model, with_precision(model, "bfloat16", CPU)(batch))
    found = torch.cat([grad.flatten() for grad in rounded])
    assert float(torch.cosine_similarity(exact, found, dim=0)) > 0.95
