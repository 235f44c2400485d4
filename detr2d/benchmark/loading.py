"""Benchmark case of image preparation in 2D: from a JPEG file to what a network is given."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as pillow_functional

from detr2d.benchmark.measure import Case, Contender, Duel, Setup
from detr2d.data.coco import CocoConfig
from detr2d.data.image_files import read_image
from detr2d.data.transforms import Resolution, fit_size, prepare_image
from detr2d.evaluation.coco import write_json
from detr2d.images import IMAGENET_RGB

PHOTO = (480, 640)
OBJECTS = 7
LEVEL = 0.025
"""A bit more than one grey level of 255, in standard deviations of a photo's values."""


def draw_photo(size: tuple[int, int], seed: int, *, noise: float, quality: int) -> bytes:
    """A JPEG (chroma of half resolution) of soft clouds, sharp boxes and pixel noise."""
    chance, (height, width) = np.random.default_rng(seed), size
    picture = np.full((height, width, 3), 118, dtype=np.float32)
    for cells, strength in ((4, 60), (16, 30), (64, 14), (256, 7)):
        coarse = chance.normal(0, strength, (cells * height // width, cells, 3))
        picture += cv2.resize(
            coarse.astype(np.float32), (width, height), None, 0, 0, cv2.INTER_CUBIC
        )
    for left, top, wide, high in chance.uniform(0, 1, (60, 4)) * [width, height, width / 4, 200]:
        picture[int(top) : int(top + high), int(left) : int(left + wide)] += chance.normal(0, 30, 3)
    picture += chance.normal(0, noise, (height, width, 1))
    stream = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def coco_duels(setup: Setup) -> Iterator[Duel]:
    """One photo of 640 x 480, resized to 800 x 1066: from its file, and from its pixels.

    Ours ends with bytes, which models normalise on their device, and from files carries boxes too;
    the peers end with normalised float32 images, to which ours is compared once normalised.
    """
    peer = _hugging_face_processor()
    with TemporaryDirectory() as folder:
        path = write_photo_set(Path(folder))
        dataset = photo_set(Path(folder)).evaluation_set()

        def from_file() -> Mapping[str, Tensor]:
            with Image.open(path) as image:
                return peer(images=image, return_tensors="pt")

        yield Duel(
            "640x480 to 800, from a file",
            ours=(
                Contender("bytes", lambda: dataset[0].images, _normalized, LEVEL),
                Contender("float32", lambda: _normalize(dataset[0].images), _images, LEVEL),
            ),
            peers=(
                Contender("transformers", from_file, _pixel_values),
                Contender("torchvision on Pillow", lambda: pillow_steps(path), _images, LEVEL),
            ),
        )
        pixels, resolution = read_image(path), Resolution()

        def prepare() -> Tensor:
            return prepare_image(pixels, "", resolution).images

        yield Duel(
            "640x480 to 800, from pixels",
            ours=(
                Contender("bytes", prepare, _normalized, LEVEL),
                Contender("float32", lambda: _normalize(prepare()), _images, LEVEL),
            ),
            peers=(
                Contender(
                    "transformers", lambda: peer(images=pixels, return_tensors="pt"), _pixel_values
                ),
            ),
        )


def write_photo_set(folder: Path) -> Path:
    """Write a COCO set of one photo with a few boxes; the path of the photo."""
    path = folder / "photo.jpg"
    path.write_bytes(draw_photo(PHOTO, 0, noise=10, quality=92))
    height, width = PHOTO
    annotations = [
        {
            "id": number + 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [],
            "bbox": [10.0 + number, 20.0, 100.0, 50.0], "area": 5000.0,
        }
        for number in range(OBJECTS)
    ]  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": path.name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    write_json(folder / "instances.json", content)
    return path


def photo_set(folder: Path) -> CocoConfig:
    """The data of ``write_photo_set`` as a config has them, with DETR's sizes."""
    return CocoConfig(
        root=folder, evaluation_images=".", evaluation_annotations="instances.json",
        classes=("thing",),
    )  # fmt: skip


def pillow_steps(path: Path) -> Tensor:
    """DETR's published preparation: Pillow resizes, torchvision scales to [0, 1] and normalises."""
    image = Image.open(path).convert("RGB")
    resolution = Resolution()
    size = fit_size((image.height, image.width), resolution.shortest, resolution.longest)
    tensor = pillow_functional.to_tensor(pillow_functional.resize(image, list(size)))
    mean, std = (
        [value / 255 for value in values] for values in (IMAGENET_RGB.mean, IMAGENET_RGB.std)
    )
    return pillow_functional.normalize(tensor, mean, std).unsqueeze(0)


def _hugging_face_processor() -> Callable[..., Any]:
    from transformers import DetrImageProcessor

    return DetrImageProcessor()


def _normalize(images: Tensor) -> Tensor:
    """Images (..., 3, H, W) without padding as ResNets want them."""
    sizes = torch.tensor(images.shape[-2:]).expand(*images.shape[:-3], 2)
    return IMAGENET_RGB.build()(images, sizes)


def _normalized(images: Tensor) -> Mapping[str, Tensor]:
    return {"images": _normalize(images)}


def _images(images: Tensor) -> Mapping[str, Tensor]:
    return {"images": images}


def _pixel_values(found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {"images": found["pixel_values"]}


CASES = (Case("data.coco", "preparing a photo for DETR", coco_duels),)
