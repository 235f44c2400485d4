"""Random labelled images for systems of any kind."""

from __future__ import annotations

import torch

from detr2d.structures import ImageBatch, Targets

CLASSES = ("cat", "dog", "grass")


def sample(height: int, width: int, objects: int = 2, smallest: float = 0.1) -> ImageBatch:
    """One image with boxes of sides from ``smallest`` to ``smallest`` + 0.2 around its middle."""
    centre, size = torch.rand(objects, 2) * 0.4 + 0.3, torch.rand(objects, 2) * 0.2 + smallest
    return ImageBatch(
        images=torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8),
        image_sizes=torch.tensor([[float(height), float(width)]]),
        tokens=("1",),
        original_sizes=torch.tensor([[2.0 * height, 2.0 * width]]),
        targets=(Targets(torch.randint(0, 3, (objects,)), torch.cat([centre, size], 1)),),
    )


def pixel_boxes(height: int, width: int, objects: int) -> ImageBatch:
    """One image whose objects are a pixel large."""
    batch = sample(height, width, objects)
    assert batch.targets is not None
    size = torch.tensor([1 / width, 1 / height]).expand(objects, -1)
    boxes = torch.cat([batch.targets[0].boxes[:, :2], size], dim=1)
    return ImageBatch(
        batch.images,
        batch.image_sizes,
        batch.tokens,
        batch.original_sizes,
        (Targets(batch.targets[0].labels, boxes),),
    )
