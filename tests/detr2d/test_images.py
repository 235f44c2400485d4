from __future__ import annotations

import torch

from detr2d.images import (
    CAFFE_BGR,
    IMAGENET_RGB,
    VOVNET_BGR,
    NormalizeImages,
    StandardizeImages,
    resize_padding,
)


def test_mean_becomes_zero_and_padding_is_zero() -> None:
    normalize = NormalizeImages((10.0, 20.0, 30.0), (1.0, 2.0, 5.0))
    images = torch.tensor([11, 22, 35], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 6)
    out = normalize(images, torch.tensor([[3.0, 5.0]]))
    assert bool((out[..., :3, :5] == 1).all())
    assert bool((out[..., 3:, :] == 0).all() and (out[..., :, 5:] == 0).all())


def test_reversed_channels_read_blue_first() -> None:
    normalize = NormalizeImages((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), reverse_channels=True)
    images = torch.tensor([1, 2, 3], dtype=torch.uint8).view(1, 3, 1, 1)
    out = normalize(images, torch.tensor([[1.0, 1.0]]))
    assert out.flatten().tolist() == [3, 2, 1]


def test_standardized_images_forget_the_light_of_the_scene() -> None:
    dim = torch.randint(20, 100, (2, 3, 8, 12)).to(torch.uint8)
    bright = dim * 2 + 30
    sizes = torch.tensor([[8.0, 12.0], [6.0, 10.0]])
    standardize = StandardizeImages()
    torch.testing.assert_close(standardize(bright, sizes), standardize(dim, sizes))
    second = standardize(dim, sizes)[1]
    assert not second[:, 6:].any() and not second[:, :, 10:].any()
    valid = second[:, :6, :10].flatten(1)
    torch.testing.assert_close(valid.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(valid.square().mean(1), torch.ones(3), atol=1e-4, rtol=0)


def test_a_black_image_stays_finite() -> None:
    black = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    assert not StandardizeImages()(black, torch.tensor([[4.0, 4.0]])).any()


def test_padding_shrinks_by_nearest_pixel() -> None:
    padding = torch.ones(1, 4, 6, dtype=torch.bool)
    padding[:, :3, :4] = False
    found = resize_padding(padding, 2, 3)
    assert found.tolist() == [[[False, False, True], [False, False, True]]]


def test_published_normalisations_name_their_channel_order() -> None:
    grey = torch.tensor([124, 116, 104], dtype=torch.uint8).view(1, 3, 1, 1)  # RGB
    size = torch.tensor([[1.0, 1.0]])
    assert IMAGENET_RGB.build()(grey, size).abs().max() < 0.01
    for normalization in (CAFFE_BGR, VOVNET_BGR):
        assert normalization.build()(grey, size).abs().max() < 0.5
        assert normalization.build()(grey.flip(1), size).abs().max() > 0.3
