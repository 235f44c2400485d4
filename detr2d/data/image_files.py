"""Image files of any kind as RGB bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as image_functional


def read_image(path: Path, where: str = "") -> Tensor:
    """An image file as uint8 RGB (3, H, W): grey, palette, CMYK, 16-bit and alpha are converted.

    Pixels come as they are stored: an orientation tag is not applied, as in COCO's annotations.
    ``where`` says in errors who asked for it. Raises FileNotFoundError or ValueError if the file is
    missing or no readable image.
    """
    prefix = f"{where}: " if where else ""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{prefix}image file {path} is missing") from error
    try:
        image = decode_image(torch.from_numpy(content), mode=ImageReadMode.RGB)
    except RuntimeError:
        image = _read_other_format(content, f"{prefix}{path} is no readable image")
    if image.dim() == 4:  # an animation: its first frame
        image = image[0]
    if image.dtype != torch.uint8:
        image = image_functional.to_dtype(image, torch.uint8, scale=True)
    return image


def _read_other_format(content: np.ndarray, complaint: str) -> Tensor:
    """What torchvision does not decode (BMP, TIFF, ...), through Pillow."""
    try:
        image = Image.open(io.BytesIO(content.tobytes())).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise ValueError(f"{complaint} ({error})") from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
