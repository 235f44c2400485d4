"""Image files of any kind as RGB bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from detr2d.data.image_headers import decode_rgb, image_header, open_image


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
    if image_header(content.data, complaint)[0] != "JPEG":  # damaged PNGs crash torchvision
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
