"""Whatever an image file holds arrives as RGB bytes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detr2d.data.image_files import read_image, read_image_of_size

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


def claiming(height: int, width: int) -> bytes:
    """A PNG of a few bytes that claims any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**30, 1)])
def test_an_image_that_claims_too_much_is_refused_before_it_is_decoded(
    size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(claiming(*size))
    with pytest.raises(ValueError, match=rf"bomb\.png .*claims {size[0]} x {size[1]} pixels"):
        read_image(path)
    with pytest.raises(ValueError, match=rf"bomb\.png .*claims {size[0]} x {size[1]} pixels"):
        read_image_of_size(path, size, "here", "it says")


def jpeg(path: Path, size: tuple[int, int]) -> Path:
    """A smooth picture of (height, width)."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 200 // height, columns * 200 // width, rows * 0 + 90], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)
    return path


@pytest.mark.parametrize(
    ("enough", "found"),
    [((32, 48), 2), ((16, 24), 4), ((33, 48), 1), ((9, 1), 4), ((8, 12), 8), ((1, 1), 8)],
)
def test_jpegs_are_decoded_no_larger_than_needed(
    enough: tuple[int, int], found: int, tmp_path: Path
) -> None:
    path = jpeg(tmp_path / "image.jpg", (64, 96))
    whole = read_image_of_size(path, (64, 96), "here", "it says")
    assert torch.equal(whole, read_image(path))
    image = read_image_of_size(path, (64, 96), "here", "it says", enough)
    assert image.shape == (3, 64 // found, 96 // found)
    means = torch.nn.functional.avg_pool2d(whole.float(), found)
    assert (image - means).abs().max() < 4


def test_only_sizes_that_divide_are_reduced_and_only_jpegs(tmp_path: Path) -> None:
    path = jpeg(tmp_path / "odd.jpg", (63, 96))
    assert read_image_of_size(path, (63, 96), "", "", (8, 8)).shape == (3, 63, 96)
    Image.open(path).crop((0, 0, 96, 60)).save(tmp_path / "image.png")
    assert read_image_of_size(tmp_path / "image.png", (60, 96), "", "", (8, 8)).shape[1] == 60


def test_a_cut_jpeg_is_refused_at_every_size(tmp_path: Path) -> None:
    path = jpeg(tmp_path / "cut.jpg", (64, 96))
    path.write_bytes(path.read_bytes()[:700])
    for enough in (None, (8, 8)):
        with pytest.raises(ValueError, match=r"here: .*cut\.jpg is no readable image"):
            read_image_of_size(path, (64, 96), "here", "it says", enough)


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 12), color) for color in (COLOR, (0, 0, 0))]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    image = read_image(tmp_path / "two.gif")
    assert image.shape == (3, 12, 16)
    assert image[:, 5, 5].tolist() == pytest.approx(COLOR, abs=16)
