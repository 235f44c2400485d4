"""Pictures of 2D detections: boxes, masks and segments with class names, on their image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.ops import box_convert
from torchvision.utils import draw_segmentation_masks

from detr2d.structures import Detections, Segments, Targets

Color = tuple[int, int, int]

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


def ink_on(color: Color) -> Color:
    """Black or white: the one that reads better on ``color`` (relative luminance)."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in color)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.2 else (255, 255, 255)


def draw_detections(image: Tensor, found: Detections, classes: Sequence[str]) -> Tensor:
    """An image (3, H, W) uint8 with boxes, class names and scores, and masks where there are any.

    Boxes are normalised centre x, centre y, width, height; masks have the size of the image. The
    best detection is drawn last, on top. Returns a new image of the same size.
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
    """Boxes x1, y1, x2, y2 in pixels, each with a name plate at its top-left corner."""
    picture = to_picture(image)
    draw = ImageDraw.Draw(picture)
    font = _font(picture)
    line = max(1, round(min(picture.size) / 300))
    objects = list(zip(corners, colors, texts, strict=True))
    for box, color, _ in reversed(objects):
        x1, y1, x2, y2 = box
        draw.rectangle((x1, y1, max(x2, x1), max(y2, y1)), outline=color, width=line)
    for box, color, text in reversed(objects):
        _write_plate(draw, picture.size, (box[0], box[1]), color, text, font, above=True)
    return to_tensor(picture)


def _write_on(
    image: Tensor,
    points: Sequence[tuple[float, float]],
    colors: Sequence[Color],
    texts: Sequence[str],
) -> Tensor:
    """Name plates at points (x, y) in pixels."""
    picture = to_picture(image)
    draw, font = ImageDraw.Draw(picture), _font(picture)
    for point, color, text in reversed(list(zip(points, colors, texts, strict=True))):
        _write_plate(draw, picture.size, point, color, text, font, above=False)
    return to_tensor(picture)


def _font(picture: Image.Image) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font whose size suits the picture."""
    return ImageFont.load_default(size=max(10, round(min(picture.size) / 32)))


def _write_plate(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corner: tuple[float, float],
    color: Color,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    *,
    above: bool,
) -> None:
    """Text on a plate of ``color`` at ``corner``, above it if asked, moved into the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), max(size[0] - width, 0))
    y = min(max(corner[1] - (height if above else height / 2), 0), max(size[1] - height, 0))
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + 2 - left, y + 2 - top), text, fill=ink_on(color), font=font)


def to_picture(image: Tensor) -> Image.Image:
    """An image (3, H, W) uint8 for Pillow."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def to_tensor(picture: Image.Image) -> Tensor:
    """A Pillow picture as an image (3, H, W) uint8."""
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, 3).permute(2, 0, 1)
