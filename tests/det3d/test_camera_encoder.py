from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from det3d.camera_encoder import encode_cameras
from detr2d.structures import FeaturePyramid
from tests.helpers.rigs import ring_rig


def halve(images: Tensor, sizes: Tensor) -> FeaturePyramid:
    assert len(images) == len(sizes)
    return FeaturePyramid((images[:, :, ::2, ::2] + 1, images[:, :, ::4, ::4]))


def test_all_cameras_are_encoded_in_their_places() -> None:
    images = torch.rand(2, 3, 3, 8, 12)
    first, second = encode_cameras(images, ring_rig(3, (8, 12), 2), halve).maps
    torch.testing.assert_close(first, images.flatten(0, 1)[:, :, ::2, ::2] + 1)
    assert second.shape == (6, 3, 2, 3)


def test_absent_cameras_are_never_encoded_and_give_zeros() -> None:
    images, rig = torch.rand(1, 3, 3, 8, 12), ring_rig(3, (8, 12))
    rig = replace(rig, present=torch.tensor([[True, False, True]]))
    seen = []

    def watch(some: Tensor, sizes: Tensor) -> FeaturePyramid:
        seen.append(len(some))
        return halve(some, sizes)

    maps = encode_cameras(images, rig, watch).maps
    assert seen == [2] and not maps[0][1].any()
    torch.testing.assert_close(maps[0][2], images[0, 2, :, ::2, ::2] + 1)
