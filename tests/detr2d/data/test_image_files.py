"""Whatever an image file holds arrives as RGB bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detr2d.data.image_files import read_image

COLOR = (200, 40, 90)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "jpg"), ("P", "gif"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "png"),
        ("RGB", "bmp"), ("RGB", "tif"), ("RGB", "webp"),
    ],
)  # fmt: skip
def test_every_colour_format_gives_the_colour(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    picture = Image.new("RGB", (16, 12), COLOR)
    (picture.quantize(4) if mode == "P" else picture.convert(mode)).save(path)
    image = read_image(path)
    assert image.shape == (3, 12, 16) and image.dtype == torch.uint8
    assert image[:, 5, 5].tolist() == pytest.approx(COLOR, abs=16)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_grey_becomes_three_equal_channels(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"grey.{suffix}"
    Image.new("L", (16, 12), 120).save(path)
    assert read_image(path)[:, 3, 3].tolist() == [120, 120, 120]


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 128 * 256, np.uint16)).save(path)
    assert read_image(path)[:, 0, 0].tolist() == [128, 128, 128]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"image 5: image file .*none\.jpg is missing"):
        read_image(tmp_path / "none.jpg", "image 5")


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.jpg is no readable image"):
        read_image(path)
