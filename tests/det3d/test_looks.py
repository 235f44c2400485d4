"""What DETR3D's samplings say they look at is what they look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from det3d.camera_gather import CameraFeatures, camera_features
from det3d.camera_sampling import IndexedCameraSampling, RigFreeCameraSampling
from det3d.geometry import Region
from det3d.systems.detr3d import DETR3DConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.looks import LookTrace
from tests.helpers.hiding import cells_read, hidden
from tests.helpers.rigs import random_scene, ring_rig

SIZE = (64, 112)
Make = Callable[[], nn.Module]


def free() -> nn.Module:
    made = RigFreeCameraSampling(
        Region(), channels=16, heads=2, num_levels=2, num_points=3, dropout=0.0
    )
    return randomize(made)


def indexed() -> nn.Module:
    made = IndexedCameraSampling(Region(), channels=16, num_cameras=6, num_levels=2, dropout=0.0)
    return randomize(made)


def randomize(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def inputs() -> tuple[Tensor, Tensor, Tensor, CameraFeatures]:
    rig = ring_rig(6, SIZE)
    maps = [torch.randn(6, 16, 16, 28), torch.randn(6, 16, 8, 14)]
    angles = torch.arange(5) * 1.1
    points = torch.stack([12 * angles.cos(), 12 * angles.sin(), 0 * angles], dim=-1)
    reference = Region().to_unit(points).unsqueeze(0)
    query = torch.randn(1, 5, 16)
    return query, torch.randn(1, 5, 16), reference, camera_features(maps, rig, SIZE)


samplings = pytest.mark.parametrize("make", [free, indexed])


@samplings
def test_a_query_depends_on_the_shown_places_and_on_no_other(make: Make) -> None:
    sampling, (query, query_pos, reference, memory) = make(), inputs()
    looks = sampling.looks(query, query_pos, reference, memory).of_query(2)
    rows = cells_read(looks, memory.level_sizes)
    assert 0 < int(rows.sum()) < 100
    only = replace(memory, table=memory.table * rows[:, None])
    without = replace(memory, table=memory.table * ~rows[:, None])
    whole, kept, hidden = (
        sampling(query, query_pos, reference, m)[0][0, 2] for m in (memory, only, without)
    )
    torch.testing.assert_close(whole, kept)
    assert (whole - hidden).abs().max() > 1e-3


def test_rig_free_weights_sum_to_one_over_what_sees_the_point() -> None:
    looks = free().looks(*inputs())
    torch.testing.assert_close(looks.weights.sum((1, 3)), torch.ones(1, 5))


def test_indexed_weights_are_the_sigmoids_of_the_cameras_that_see_the_point() -> None:
    sampling, (query, query_pos, reference, memory) = indexed(), inputs()
    looks = sampling.looks(query, query_pos, reference, memory)
    visible = memory.rig.project(Region().to_metres(reference)).visible  # (1, 6, 5)
    sigmoids = sampling.weights(query + query_pos).sigmoid().view(1, 5, 6, 2).sum(-1)
    torch.testing.assert_close(looks.weights[..., 0], sigmoids.transpose(1, 2) * visible)


@pytest.mark.parametrize("rig", ["free", "indexed"])
def test_hiding_what_a_trace_shows_moves_the_box(rig: str) -> None:
    config = DETR3DConfig(
        backbone=ResNetConfig(depth=18), channels=16, num_queries=12, num_layers=2, heads=2,
        hidden=16, rig=rig,
    )  # fmt: skip
    model, scene = randomize(config.build(("a", "b"))), random_scene(size=SIZE)
    with torch.inference_mode():
        with LookTrace(query=4).watching(model) as trace:
            codes = model(scene).codes

        def hide(_: nn.Module, arguments: tuple) -> tuple:
            *others, memory = arguments
            return (*others, hidden(memory, trace.layers))

        for layer in model.decoder:
            layer.cross_attention.register_forward_pre_hook(hide)
        moved = model(scene).codes
    assert len(trace.layers) == 2
    assert all(looks.weights.sum() > 0 for looks in trace.layers)
    assert (codes[-1, 0, 4, :3] - moved[-1, 0, 4, :3]).norm() > 1e-3  # metres
