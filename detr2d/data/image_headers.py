"""What image files claim to be, looked at before anything is decoded; needs no torch."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

MAX_PIXELS = 2**27
"""Images of more pixels (134 million) are refused before they are decoded."""
DECODE_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, OverflowError, TypeError,
    AttributeError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for files that are not what they claim to be."""


def image_header(content: Any, complaint: str) -> tuple[str, tuple[int, int]]:
    """Format and (height, width) that the bytes of an image file claim.

    Raises ValueError that starts with ``complaint`` if they are no image or claim more than
    ``MAX_PIXELS`` pixels.
    """
    image = open_image(content, complaint)
    return str(image.format), (image.height, image.width)


def open_image(content: Any, complaint: str) -> Image.Image:
    """An image that is not yet decoded, its first frame. Raises ValueError as ``image_header``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit is another
            image = Image.open(io.BytesIO(content))
    except DECODE_ERRORS as error:
        raise ValueError(f"{complaint} ({str(error)[:200]})") from error
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{complaint}: it claims {image.height} x {image.width} pixels, "
            f"expected at most {MAX_PIXELS} in all"
        )
    return image


def decode_rgb(image: Image.Image, complaint: str) -> npt.NDArray[np.uint8]:
    """The decoded image as RGB (H, W, 3); 16 bits are scaled to 8.

    Raises ValueError that starts with ``complaint``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not image.mode.startswith("I"):
                return np.array(image.convert("RGB"))
            deep = np.asarray(image).astype(np.int64) // 256
    except DECODE_ERRORS as error:
        raise ValueError(f"{complaint} ({str(error)[:200]})") from error
    return np.repeat(deep.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
