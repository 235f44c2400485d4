"""What the benchmark times gives the same images and annotations on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from det3d.benchmark.loading import (
    NATIVE,
    SIZES,
    Size,
    first_info,
    first_sample,
    photo_dataset,
    published_steps,
    random_arrays,
    write_infos,
)
from det3d.data.nuscenes_index import load_index, write_index
from det3d.structures import concatenate_scenes
from detr2d.benchmark.loading import photo_set, pillow_steps, write_photo_set
from detr2d.images import IMAGENET_RGB, VOVNET_BGR


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("photos")


def levels(images: torch.Tensor) -> torch.Tensor:
    """Normalised BGR images as grey levels of RGB."""
    std, mean = (torch.tensor(v).view(3, 1, 1) for v in (VOVNET_BGR.std, VOVNET_BGR.mean))
    return (images * std + mean).flip(-3)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_our_bytes_are_those_of_the_published_steps(size: Size, folder: Path) -> None:
    dataset = photo_dataset(folder, size)
    scene = concatenate_scenes([dataset[0]])
    window = size.framing.window(NATIVE, size.image_size, None)
    expected = published_steps(sorted(folder.glob("*.jpg")), window)
    assert scene.images.dtype == torch.uint8 and scene.images.shape[1:] == expected.shape
    valid = scene.rig.image_sizes[0, 0].int().tolist()
    apart = (scene.images[0].float() - levels(expected))[..., : valid[0], : valid[1]].abs()
    assert apart.max() < 2.01 and (apart > 1.01).sum() <= 1e-5 * apart.numel()
    assert not scene.images[..., valid[0] :, :].any()


def test_decoding_at_half_size_changes_nothing_but_pixels_a_little(folder: Path) -> None:
    plain, reduced = (
        photo_dataset(folder, SIZES[0], reduced_decoding=way)[0] for way in (False, True)
    )
    assert torch.equal(plain.rig.intrinsics, reduced.rig.intrinsics)
    assert torch.equal(plain.rig.camera_from_ref, reduced.rig.camera_from_ref)
    assert torch.equal(plain.rig.image_sizes, reduced.rig.image_sizes)
    assert plain.targets is not None and reduced.targets is not None
    assert torch.equal(plain.targets[0].boxes, reduced.targets[0].boxes)
    apart = (plain.images.float() - reduced.images.float()).abs()
    assert 0 < apart.mean() < 2
    again = photo_dataset(folder, SIZES[0], reduced_decoding=True)[0]
    assert torch.equal(again.images, reduced.images)


def test_a_photo_for_detr_is_that_of_the_published_steps(tmp_path: Path) -> None:
    path = write_photo_set(tmp_path)
    batch = photo_set(tmp_path).evaluation_set()[0]
    std, mean = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_RGB.std, IMAGENET_RGB.mean))
    apart = (batch.images.float() - (pillow_steps(path) * std + mean)).abs()
    assert batch.images.shape == (1, 3, 800, 1066) and apart.max() < 1.01


def test_infos_hold_what_the_index_holds(tmp_path: Path) -> None:
    arrays = random_arrays(3)
    write_index(tmp_path / "index", arrays, {"version": "v1.0", "channels": [], "splits": {}})
    write_infos(tmp_path / "infos.pkl", arrays)
    ours, theirs = first_sample(load_index(tmp_path / "index")), first_info(tmp_path / "infos.pkl")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
