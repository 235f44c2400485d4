from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from det3d.camera_gather import CameraFeatures, camera_features, gather_all, gather_visible
from det3d.cameras import CameraRig
from det3d.geometry import Region
from tests.helpers.rigs import ring_rig

SIZE = (64, 112)
GATHERS = pytest.mark.parametrize("gather", [gather_all, gather_visible])


def as_double(rig: CameraRig) -> CameraRig:
    return CameraRig(
        rig.intrinsics.double(),
        rig.camera_from_ref.double(),
        rig.image_sizes.double(),
        rig.present,
        rig.timestamps,
    )


def random_features(rig: CameraRig, channels: int) -> CameraFeatures:
    count = rig.present.numel()
    maps = [torch.randn(count, channels, 64 // s, 112 // s).double() for s in (8, 16)]
    return camera_features(maps, as_double(rig), SIZE)


def test_maps_are_the_ones_that_were_tabulated() -> None:
    maps = [torch.randn(6, 4, 8, 14), torch.randn(6, 4, 4, 7)]
    features = camera_features(maps, ring_rig(3, scenes=2), SIZE)
    for before, after in zip(maps, features.maps(), strict=True):
        assert torch.equal(before.unflatten(0, (2, 3)), after)


@GATHERS
def test_a_map_of_its_own_coordinates_reads_back_the_pixel(gather) -> None:
    rows = (torch.arange(8.0) + 0.5) * 8
    columns = (torch.arange(14.0) + 0.5) * 8
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    features = camera_features([torch.stack([u, v]).unsqueeze(0)], ring_rig(1), SIZE)
    pixels = torch.tensor([[4.0, 4.0], [50.0, 33.0], [107.9, 59.9]]).view(1, 1, 3, 1, 1, 2)
    read = gather(features, pixels, torch.ones(1, 1, 3, 1, 1, 1), torch.ones(1, 1, 3, 1, 1) > 0)
    torch.testing.assert_close(read, pixels.view(1, 3, 2), atol=1e-3, rtol=0)


def test_twin_equals_definition_with_gradients() -> None:
    shape = (2, 3, 5, 2)  # B, V, Q, heads
    features = random_features(ring_rig(3, scenes=2), 8)
    pixels = torch.rand(*shape, 4, 2).double() * torch.tensor([130.0, 80.0]) - 9
    weights = torch.rand(*shape, 2, 4).double()
    visible = torch.rand(*shape, 4) < 0.4
    results = []
    for gather in (gather_all, gather_visible):
        inputs = [t.clone().requires_grad_() for t in (features.table, pixels, weights)]
        table, at, shares = inputs
        changed = CameraFeatures(table, features.level_sizes, features.rig, features.canvas)
        out = gather(changed, at, shares, visible)
        out.square().sum().backward()
        results.append([out.detach(), *(t.grad for t in inputs)])
    for definition, twin in zip(*results, strict=True):
        torch.testing.assert_close(twin, definition, atol=1e-9, rtol=1e-7)


@GATHERS
def test_nothing_visible_gives_zero(gather) -> None:
    features = random_features(ring_rig(3), 4)
    nothing = torch.zeros(1, 3, 5, 1, 2, dtype=torch.bool)
    out = gather(
        features, torch.rand(1, 3, 5, 1, 2, 2).double(), torch.rand(1, 3, 5, 1, 2, 2).double(),
        nothing,
    )  # fmt: skip
    assert out.shape == (1, 5, 4) and not out.any()


def official_features(fixture: np.lib.npyio.NpzFile) -> CameraFeatures:
    """The fixture's maps; its lidar2img stands as the pose of a camera with unit intrinsics."""
    matrices = torch.tensor(fixture["lidar2img"])
    lead = matrices.shape[:2]
    height, width = (int(size) for size in fixture["img_shape"])
    rig = CameraRig(
        intrinsics=torch.eye(3, dtype=torch.float64).expand(*lead, 3, 3),
        camera_from_ref=matrices,
        image_sizes=torch.tensor([height, width], dtype=torch.float64).expand(*lead, 2),
        present=torch.ones(lead, dtype=torch.bool),
        timestamps=torch.zeros(lead, dtype=torch.float64),
    )
    maps = [torch.tensor(fixture[f"feat_{level}"]).flatten(0, 1) for level in range(4)]
    return camera_features(maps, rig, (height, width))


@pytest.mark.parity
@GATHERS
def test_sampled_features_equal_the_official_function(gather, parity: Path) -> None:
    fixture = np.load(parity / "ops3d/detr3d_feature_sampling.npz")
    features = official_features(fixture)
    points = Region().to_metres(torch.tensor(fixture["reference_points"]))
    projection = features.rig.project(points)
    mask = torch.tensor(fixture["mask"])[:, 0, :, :, 0, 0]  # (B, Q, V)
    assert torch.equal(projection.visible, mask.transpose(1, 2))
    official = torch.tensor(fixture["sampled"]).squeeze(4)  # (B, C, Q, V, levels), unmasked
    weights = torch.rand(2, 6, 60, 1, 4, 1).double()
    shares = weights[:, :, :, 0, :, 0].permute(0, 2, 1, 3) * mask.unsqueeze(-1)  # (B, Q, V, levels)
    expected = torch.einsum("bcqvl,bqvl->bqc", official, shares)
    pixels, visible = projection.pixels[:, :, :, None, None], projection.visible[..., None, None]
    torch.testing.assert_close(
        gather(features, pixels, weights, visible), expected, atol=1e-5, rtol=1e-5
    )
