"""Pictures of 2D detections: boxes, masks and segments with class names, on their image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.ops import box_convert
from torchvision.utils import draw_segmentation_masks

from detr2d.labels import Color, Label, Rectangle, text_size, write_labels
from detr2d.structures import Detections, Segments, Targets

# Okabe and Ito's colours for every kind of colour vision, without black.
CLASS_COLORS: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
MASK_OPACITY = 0.45


def class_color(label: int) -> Color:
    """The colour of a class by its label; colours repeat, so the name is always written too."""
    return CLASS_COLORS[label % len(CLASS_COLORS)]


def draw_detections(image: Tensor, found: Detections, classes: Sequence[str]) -> Tensor:
    """An image (3, H, W) uint8 with boxes, class names and scores, and masks where there are any.

    Boxes are normalised centre x, centre y, width, height; masks have the size of the image. The
    best detection is drawn last, on top. Names do not cover each other: where there is no room for
    all, those of worse detections are left out. Returns a new image of the same size.
    """
    texts = [
        f"{classes[label]} {score:.2f}"
        for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    ]
    return draw_objects(image, found.boxes, found.labels, texts, found.masks)


def draw_targets(image: Tensor, targets: Targets, classes: Sequence[str]) -> Tensor:
    """An image (3, H, W) uint8 with its annotated objects; masks have the size of the image."""
    texts = [classes[label] for label in targets.labels.tolist()]
    return draw_objects(image, targets.boxes, targets.labels, texts, targets.masks)


def draw_objects(
    image: Tensor, boxes: Tensor, labels: Tensor, texts: Sequence[str], masks: Tensor | None = None
) -> Tensor:
    """An image (3, H, W) uint8 with boxes (T, 4), labels (T,), texts and masks (T, H, W).

    Boxes are normalised centre x, centre y, width, height; the first object is drawn on top.
    """
    height, width = image.shape[-2:]
    colors = [class_color(label) for label in labels.tolist()]
    if masks is not None and len(masks):
        image = draw_segmentation_masks(image, masks.bool(), alpha=MASK_OPACITY, colors=colors)
    scale = torch.tensor([width, height, width, height])
    corners = (box_convert(boxes.float(), "cxcywh", "xyxy") * scale).tolist()
    return _draw_on(image, corners, colors, texts)


def draw_segments(image: Tensor, segments: Segments, classes: Sequence[str]) -> Tensor:
    """An image (3, H, W) uint8 under its panoptic segmentation, segments named in their middle."""
    order = list(range(len(segments)))
    masks = segments.id_map == torch.arange(1, len(segments) + 1)[:, None, None]
    colors = [class_color(label) for label in segments.labels.tolist()]
    picture = image
    if order:
        picture = draw_segmentation_masks(image, masks, alpha=MASK_OPACITY, colors=colors)
    points = [_middle(mask) for mask in masks]
    texts = [classes[label] for label in segments.labels.tolist()]
    return _write_on(_outline(picture, segments.id_map), points, colors, texts)


def _outline(image: Tensor, id_map: Tensor) -> Tensor:
    """The image with the borders between segments in white."""
    border = torch.zeros_like(id_map, dtype=torch.bool)
    border[:, 1:] |= id_map[:, 1:] != id_map[:, :-1]
    border[1:] |= id_map[1:] != id_map[:-1]
    return image.masked_fill(border, 255)


def _middle(mask: Tensor) -> tuple[float, float]:
    """A pixel (x, y) of a mask (H, W) in its middle row; the corner if it has none."""
    rows = mask.any(dim=1).nonzero().flatten()
    if not len(rows):
        return 0.0, 0.0
    row = int(rows[len(rows) // 2])
    columns = mask[row].nonzero().flatten()
    return float(columns[len(columns) // 2]), float(row)


def _draw_on(
    image: Tensor, corners: list[list[float]], colors: Sequence[Color], texts: Sequence[str]
) -> Tensor:
    """Boxes x1, y1, x2, y2 in pixels, each with a name plate at its top-left corner if it fits."""
    picture = to_picture(image)
    draw = ImageDraw.Draw(picture)
    line = max(1, round(min(picture.size) / 300))
    labels = []
    for box, color, text in reversed(list(zip(corners, colors, texts, strict=True))):
        x1, y1, x2, y2 = box
        x2, y2 = max(x2, x1), max(y2, y1)
        draw.rectangle((x1, y1, x2, y2), outline=color, width=line)
        labels.append(Label(text, _within((x1, y1, x2, y2), picture.size), color, align=0))
    return _with_labels(picture, labels[::-1])


def _within(box: Rectangle, size: tuple[int, int]) -> Rectangle:
    """A box cut to a picture of ``size`` (width, height)."""
    x1, x2 = (min(max(x, 0.0), float(size[0])) for x in box[::2])
    y1, y2 = (min(max(y, 0.0), float(size[1])) for y in box[1::2])
    return x1, y1, x2, y2


def _write_on(
    image: Tensor,
    points: Sequence[tuple[float, float]],
    colors: Sequence[Color],
    texts: Sequence[str],
) -> Tensor:
    """Name plates at points (x, y) in pixels."""
    picture = to_picture(image)
    half = text_size("", _font_size(picture))[1] / 2 + 1
    labels = [
        Label(text, (x, y + half, x, y + half), color)  # its first place is around the point
        for (x, y), color, text in zip(points, colors, texts, strict=True)
    ]
    return _with_labels(picture, labels)


def _with_labels(picture: Image.Image, labels: Sequence[Label]) -> Tensor:
    """A picture with labels, the first ones first, as an image (3, H, W)."""
    written = write_labels(np.asarray(picture), labels, _font_size(picture))
    return torch.tensor(written).permute(2, 0, 1)


def _font_size(picture: Image.Image) -> int:
    """A size of letters that suits the picture."""
    return max(10, round(min(picture.size) / 32))


def to_picture(image: Tensor) -> Image.Image:
    """An image (3, H, W) uint8 for Pillow."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def to_tensor(picture: Image.Image) -> Tensor:
    """A Pillow picture as an image (3, H, W) uint8."""
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, 3).permute(2, 0, 1)
