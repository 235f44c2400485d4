"""One picture of one scene: cameras, the view from above, and a key to read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from det3d.structures import SceneBatch
from det3d.visualization.birds_eye import draw_birds_eye
from det3d.visualization.cameras import GAP, PictureStyle, draw_cameras
from det3d.visualization.canvas import even
from det3d.visualization.contents import Contents, readable
from det3d.visualization.palette import BACKGROUND, MUTED, PANEL, TEXT, WHITE, class_color
from detr2d.labels import Color, font


def draw_scene(
    scene: SceneBatch,
    contents: Contents,
    *,
    title: str = "",
    style: PictureStyle | None = None,
    camera_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Cameras beside the bird's-eye view over a key: (H, W, 3) uint8 RGB with even H and W.

    The same rig and style give the same size, so that scenes join to a video. Raises ValueError
    as ``scene_views`` does.
    """
    style = style or PictureStyle()
    cameras = draw_cameras(scene, contents, style=style, camera_names=camera_names)
    side = max(cameras.shape[0], 3 * style.camera_width // 4)
    above = draw_birds_eye(scene.rig, contents, size=side, style=style)
    height, width = side, cameras.shape[1] + GAP + side
    key_height = round(style.font_size * 2.6)
    picture = np.full((even(height + key_height), even(width), 3), BACKGROUND, dtype=np.uint8)
    top = (height - cameras.shape[0]) // 2
    picture[top : top + cameras.shape[0], : cameras.shape[1]] = cameras
    picture[:side, cameras.shape[1] + GAP : width] = above
    return draw_key(picture, height, contents, title, style)


def draw_key(
    picture: np.ndarray, top: int, contents: Contents, title: str, style: PictureStyle
) -> np.ndarray:
    """Write what the colours and lines mean, and the title, below row ``top`` of a picture."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    height, width = picture.shape[:2]
    draw.rectangle((0, top, width, height), fill=PANEL)
    middle, size = (top + height) / 2, style.font_size + 1
    right = width - 12.0
    draw.text((right, middle), title, fill=MUTED, font=font(size), anchor="rm")
    right -= font(size).getlength(title) + 16
    x = 12.0
    for text, color, dashed in key_entries(contents):
        end = x + 24 + font(size).getlength(text)
        if end > right:
            break
        for start in (0, 7, 14) if dashed else (0,):
            length = 4 if dashed else 18
            draw.line((x + start, middle, x + start + length, middle), fill=color, width=3)
        draw.text((x + 24, middle), text, fill=TEXT, font=font(size), anchor="lm")
        x = end + 18
    return np.asarray(image)


def key_entries(contents: Contents) -> list[tuple[str, Color, bool]]:
    """(text, colour, dashed) of every kind of line in the picture."""
    entries: list[tuple[str, Color, bool]] = []
    if contents.detections is not None and contents.ground_truth is not None:
        entries.append(("ground truth", WHITE, True))
    if contents.trails is not None:
        entries.append(("way of a query, dots where it sampled", WHITE, False))
    names = contents.class_names
    return entries + [
        (readable(name), class_color(label), False) for label, name in enumerate(names)
    ]
