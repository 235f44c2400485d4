from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from det3d.camera_gather import CameraFeatures, camera_features
from det3d.camera_sampling import IndexedCameraSampling, RigFreeCameraSampling
from det3d.cameras import CameraRig
from det3d.geometry import Region
from tests.det3d.test_camera_gather import official_features
from tests.helpers.rigs import ring_rig

REGION = Region()
SIZE = (64, 112)


def make_features(rig: CameraRig, channels: int = 8) -> CameraFeatures:
    count = rig.present.numel()
    maps = [torch.randn(count, channels, 64 // s, 112 // s) for s in (8, 16)]
    return camera_features(maps, rig, SIZE)


def make_sampling() -> RigFreeCameraSampling:
    sampling = RigFreeCameraSampling(
        REGION, channels=8, heads=2, num_levels=2, num_points=3, dropout=0.0
    )
    for parameter in sampling.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return sampling


def select(features: CameraFeatures, cameras: list[int]) -> CameraFeatures:
    maps = [level[0, cameras] for level in features.maps()]
    return camera_features(maps, features.rig.select(cameras), SIZE)


def test_rig_free_update_ignores_the_order_of_cameras() -> None:
    features, sampling = make_features(ring_rig()), make_sampling()
    query, position, reference = torch.randn(1, 9, 8), torch.randn(1, 9, 8), torch.rand(1, 9, 3)
    plain, _ = sampling(query, position, reference, features)
    moved, _ = sampling(query, position, reference, select(features, [4, 2, 0, 5, 1, 3]))
    torch.testing.assert_close(moved, plain, atol=1e-6, rtol=1e-5)


def test_rig_free_update_ignores_absent_cameras() -> None:
    features, sampling = make_features(ring_rig()), make_sampling()
    query, position, reference = torch.randn(1, 9, 8), torch.randn(1, 9, 8), torch.rand(1, 9, 3)
    plain, _ = sampling(query, position, reference, features)
    maps = [torch.cat([m[0], 1e3 * torch.randn_like(m[0, :2])]) for m in features.maps()]
    more = camera_features(maps, features.rig.padded(8), SIZE)
    padded, _ = sampling(query, position, reference, more)
    torch.testing.assert_close(padded, plain, atol=1e-6, rtol=1e-6)


def test_unseen_queries_depend_on_no_feature_and_have_finite_gradients() -> None:
    rig = replace(ring_rig(), present=torch.zeros(1, 6, dtype=torch.bool))
    features, sampling = make_features(rig), make_sampling()
    query = torch.randn(1, 4, 8, requires_grad=True)
    reference = torch.rand(1, 4, 3)
    update, _ = sampling(query, query, reference, features)
    other, _ = sampling(query, query, reference, make_features(rig))
    assert torch.equal(update, other)
    update.sum().backward()
    assert torch.isfinite(query.grad).all()


def test_sampled_points_stay_within_reach() -> None:
    features, sampling = make_features(ring_rig()), make_sampling()
    reference = torch.rand(1, 9, 3)
    _, points = sampling(torch.randn(1, 9, 8), torch.randn(1, 9, 8), reference, features)
    assert points.shape == (1, 9, 6, 3)
    metres = REGION.to_metres(points) - REGION.to_metres(reference).unsqueeze(2)
    assert metres.abs().max() <= sampling.reach + 1e-4


def test_indexed_sampling_refuses_another_number_of_cameras() -> None:
    sampling = IndexedCameraSampling(REGION, channels=8, num_cameras=6, num_levels=2, dropout=0.0)
    with pytest.raises(ValueError, match=r"tied to 6 cameras.*the rig has 5"):
        sampling(
            torch.randn(1, 2, 8), torch.randn(1, 2, 8), torch.rand(1, 2, 3),
            make_features(ring_rig(5)),
        )  # fmt: skip


@pytest.mark.parity
def test_indexed_cross_attention_equals_the_official_module(parity: Path) -> None:
    fixture = np.load(parity / "ops3d/detr3d_cross_attention.npz")
    sampling = IndexedCameraSampling(
        REGION, channels=32, num_cameras=6, num_levels=4, dropout=0.0
    ).double()
    names = {
        "weights": "attention_weights",
        "output": "output_proj",
        "position": "position_encoder",
    }
    state = {}
    for key in sampling.state_dict():
        module, rest = key.split(".", 1)
        state[key] = torch.tensor(fixture[f"w/{names[module]}.{rest}"])
    sampling.load_state_dict(state)
    query, position = (torch.tensor(fixture[k]).transpose(0, 1) for k in ("query", "query_pos"))
    reference = torch.tensor(fixture["reference_points"])
    update, _ = sampling(query, position, reference, official_features(fixture))
    official = torch.tensor(fixture["out"]).transpose(0, 1)
    torch.testing.assert_close(query + update, official, atol=1e-5, rtol=1e-5)
