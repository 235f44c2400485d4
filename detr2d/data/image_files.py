"""Image files of any kind as RGB bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from detr2d.data.image_headers import decode_rgb, image_header, open_image

REDUCED = {
    factor: flag | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    for factor, flag in (
        (2, cv2.IMREAD_REDUCED_COLOR_2 & ~1),
        (4, cv2.IMREAD_REDUCED_COLOR_4 & ~1),
        (8, cv2.IMREAD_REDUCED_COLOR_8 & ~1),
    )
}
"""OpenCV's flags to decode a JPEG at one ``factor``-th of its size, as RGB."""


def read_image(path: Path, where: str = "") -> Tensor:
    """An image file as uint8 RGB (3, H, W): grey, palette, CMYK, 16-bit and alpha are converted.

    Pixels come as they are stored: an orientation tag is not applied, as in COCO's annotations. Of
    an animation the first frame is taken. ``where`` says in errors who asked for it. Raises
    FileNotFoundError or ValueError if the file is missing, no readable image, or claims more
    pixels than ``image_headers.MAX_PIXELS``.
    """
    prefix = f"{where}: " if where else ""
    content = read_bytes(path, prefix)
    complaint = f"{prefix}{path} is no readable image"
    kind, _ = image_header(content.data, complaint)
    return _decode(content, kind, complaint)


def read_image_of_size(
    path: Path,
    size: Sequence[int],
    where: str,
    source: str,
    enough: tuple[int, int] | None = None,
) -> Tensor:
    """What ``read_image`` gives, of an image that is as large as it should be.

    Raises ValueError, before anything is decoded, if the (height, width) of the file is not the
    ``size`` that ``source`` ("the annotations say") gives it. Where ``enough`` (height, width)
    suffices, a JPEG is decoded at a half, quarter or eighth of its size if that is not smaller and
    divides it: fewer frequencies are transformed back, so values differ a little from resized ones.
    """
    content = read_bytes(path, f"{where}: ")
    complaint = f"{where}: {path} is no readable image"
    kind, found = image_header(content.data, complaint)
    if found != tuple(size):
        raise ValueError(
            f"{where}: {path} is {found[0]} x {found[1]} pixels (height x width), "
            f"{source} {size[0]} x {size[1]}"
        )
    shrunk = reduction(found, enough) if enough and kind == "JPEG" else 1
    if shrunk > 1 and (pixels := cv2.imdecode(content, REDUCED[shrunk])) is not None:
        return torch.from_numpy(pixels).permute(2, 0, 1)
    return _decode(content, kind, complaint)


def reduction(size: tuple[int, int], enough: tuple[int, int]) -> int:
    """The largest of 8, 4, 2 and 1 that divides ``size`` and leaves at least ``enough``."""
    fitting = (
        factor
        for factor in sorted(REDUCED, reverse=True)
        if all(s % factor == 0 and s // factor >= e for s, e in zip(size, enough, strict=True))
    )
    return next(fitting, 1)


def _decode(content: np.ndarray, kind: str, complaint: str) -> Tensor:
    """The bytes of an image file of this kind as ``read_image`` gives it."""
    if kind != "JPEG":  # damaged PNGs crash torchvision
        return _read_other_format(content, complaint)
    try:
        return decode_jpeg(torch.from_numpy(content), mode=ImageReadMode.RGB)
    except RuntimeError:
        return _read_other_format(content, complaint)


def read_bytes(path: Path, prefix: str = "") -> np.ndarray:
    """The content (N,) uint8 of an image file. Raises FileNotFoundError or OSError, with prefix."""
    try:
        return np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{prefix}image file {path} is missing") from error
    except OSError as error:
        raise OSError(f"{prefix}image file {path} cannot be read ({error})") from error


def _read_other_format(content: np.ndarray, complaint: str) -> Tensor:
    """Every format but JPEG, through Pillow."""
    pixels = decode_rgb(open_image(content.data, complaint), complaint)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
