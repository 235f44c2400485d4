from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from det3d.camera_sampling import (
    CameraFeatures,
    IndexedCameraSampling,
    RigFreeCameraSampling,
    sample_features,
)
from det3d.cameras import CameraRig
from det3d.geometry import Region
from tests.helpers.rigs import ring_rig

REGION = Region()
SIZE = (64, 112)


def make_features(rig: CameraRig, channels: int = 8) -> CameraFeatures:
    lead = rig.present.shape
    maps = tuple(torch.randn(*lead, channels, 64 // s, 112 // s) for s in (8, 16))
    return CameraFeatures(maps, rig, SIZE)


def make_sampling() -> RigFreeCameraSampling:
    sampling = RigFreeCameraSampling(
        REGION, channels=8, heads=2, num_levels=2, num_points=3, dropout=0.0
    )
    for parameter in sampling.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return sampling


def select(features: CameraFeatures, cameras: list[int]) -> CameraFeatures:
    maps = tuple(level[:, cameras] for level in features.maps)
    return replace(features, maps=maps, rig=features.rig.select(cameras))


def test_a_feature_map_of_its_own_coordinates_reads_back_the_pixel() -> None:
    rig = ring_rig(1)
    rows = (torch.arange(8.0) + 0.5) * 8
    columns = (torch.arange(14.0) + 0.5) * 8
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flip(0)  # (u, v)
    features = CameraFeatures((grid[None, None],), rig, SIZE)
    pixels = torch.tensor([[[[4.0, 4.0], [50.0, 33.0], [107.9, 59.9]]]])
    sampled = sample_features(features, pixels)
    torch.testing.assert_close(sampled[:, :, :, 0], pixels, atol=1e-3, rtol=0)


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
    maps = tuple(torch.cat([m, 1e3 * torch.randn_like(m[:, :2])], 1) for m in features.maps)
    more = replace(features, maps=maps, rig=features.rig.padded(8))
    padded, _ = sampling(query, position, reference, more)
    assert torch.equal(padded, plain)


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


def official_rig(fixture: np.lib.npyio.NpzFile) -> CameraRig:
    """The fixture's lidar2img split into intrinsics = identity and the rest as the pose."""
    matrices = torch.tensor(fixture["lidar2img"])
    lead = matrices.shape[:2]
    return CameraRig(
        intrinsics=torch.eye(3, dtype=torch.float64).expand(*lead, 3, 3),
        camera_from_ref=matrices,
        image_sizes=torch.tensor(fixture["img_shape"], dtype=torch.float64).expand(*lead, 2),
        present=torch.ones(lead, dtype=torch.bool),
        timestamps=torch.zeros(lead, dtype=torch.float64),
    )


def official_features(fixture: np.lib.npyio.NpzFile) -> CameraFeatures:
    height, width = (int(size) for size in fixture["img_shape"])
    maps = tuple(torch.tensor(fixture[f"feat_{level}"]) for level in range(4))
    return CameraFeatures(maps, official_rig(fixture), (height, width))


@pytest.mark.parity
def test_sampling_equals_the_official_function(parity: Path) -> None:
    fixture = np.load(parity / "ops3d/detr3d_feature_sampling.npz")
    features = official_features(fixture)
    points = REGION.to_metres(torch.tensor(fixture["reference_points"]))
    projection = features.rig.project(points)
    official_mask = torch.tensor(fixture["mask"])[:, 0, :, :, 0, 0].transpose(1, 2)
    assert torch.equal(projection.visible, official_mask)
    ours = sample_features(features, projection.pixels)  # (B, V, Q, levels, C)
    official = torch.tensor(fixture["sampled"]).squeeze(4).permute(0, 3, 2, 4, 1)
    seen = official_mask[..., None, None].expand_as(official)
    torch.testing.assert_close(ours[seen], official[seen], atol=1e-5, rtol=1e-5)


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
