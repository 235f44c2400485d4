"""The cameras of a rig side by side as they look, with 3D wireframes or lidar points on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from det3d.boxes import CORNER_EDGES, box_corners
from det3d.cameras import CameraRig
from det3d.geometry import transform_points
from det3d.structures import SceneBatch
from det3d.visualization.canvas import Canvas, even, title_area, write_title
from det3d.visualization.contents import BoxLayer, Contents, QueryTrails, box_layers, to_array
from det3d.visualization.frustum import (
    clip_polygon,
    clip_segments,
    in_sight,
    to_pixels,
    view_planes,
)
from det3d.visualization.layout import camera_rows, direction_name
from det3d.visualization.palette import BACKGROUND, PANEL, TEXT, WHITE, class_color
from detr2d.labels import Label, font, write_labels

GAP = 4  # pixels between cameras
LINE_MARGIN = 3.0  # pixels a line runs on beyond the image, so that it does not end in sight
SMALLEST_LABELLED = 9.0  # pixels of height below which a box gets no label
FULL_LABEL = 36.0  # pixels of height from which a label names the class, not the score alone
LIDAR_RANGE = (3.0, 60.0)  # metres that the colour map of the lidar points spans


@dataclass(frozen=True, kw_only=True)
class PictureStyle:
    """Sizes of a picture and the direction that it takes as forward."""

    camera_width: int = 640
    """Pixels per camera; its height follows from its own images."""
    reach: float = 55.0
    """Metres from the origin to each side of the bird's-eye view."""
    forward_yaw: float = math.pi / 2
    """Forward as an angle from the ref frame's +x axis: LIDAR_TOP of nuScenes looks along +y."""
    font_size: int = 13
    """Pixels."""


@dataclass(frozen=True)
class View:
    """One present camera, scaled to the size at which it is drawn."""

    name: str
    image: np.ndarray  # (h, w, 3) uint8, not yet scaled
    intrinsics: Tensor  # (3, 3) float64, in drawn pixels
    camera_from_ref: Tensor  # (4, 4) float64
    height: int
    width: int

    def rays(self, points_ref: np.ndarray) -> np.ndarray:
        """Rays (..., 3) as in ``det3d.visualization.frustum`` of points (..., 3)."""
        points = transform_points(self.camera_from_ref, torch.from_numpy(points_ref))
        return (points @ self.intrinsics.T).numpy()


def camera_azimuths(rig: CameraRig, forward_yaw: float) -> list[float]:
    """Where each camera of the first scene looks: radians from forward, left positive."""
    axes = rig.camera_from_ref[0, :, 2, :2].double()  # optical axis in the ref frame
    azimuths = torch.atan2(axes[:, 1], axes[:, 0]) - forward_yaw
    return torch.remainder(azimuths + math.pi, 2 * math.pi).sub(math.pi).tolist()


def scene_views(
    scene: SceneBatch, style: PictureStyle, camera_names: Sequence[str] | None = None
) -> list[list[View]]:
    """The rows of cameras to draw of a batch of one; absent cameras are left out.

    ``camera_names`` (V) default to viewing directions. Raises ValueError unless the batch holds
    one scene with uint8 images and a present camera.
    """
    if len(scene) != 1:
        raise ValueError(f"a picture shows one scene, got a batch of {len(scene)}")
    if scene.images.dtype != torch.uint8:
        raise ValueError(f"images to draw on must be uint8 RGB, got {scene.images.dtype}")
    present = [v for v, is_present in enumerate(scene.rig.present[0].tolist()) if is_present]
    if not present:
        raise ValueError(f"sample {scene.tokens[0]} has no camera that is present")
    azimuths = camera_azimuths(scene.rig, style.forward_yaw)
    names = camera_names or [direction_name(azimuth) for azimuth in azimuths]
    rows = camera_rows([azimuths[v] for v in present])
    return [[make_view(scene, present[i], names[present[i]], style) for i in row] for row in rows]


def make_view(scene: SceneBatch, camera: int, name: str, style: PictureStyle) -> View:
    """Camera ``camera`` of a batch of one, scaled to the width of the style."""
    rig = scene.rig.select([camera])
    height, width = (round(size) for size in rig.image_sizes[0, 0].tolist())
    drawn = (max(1, round(height * style.camera_width / width)), style.camera_width)
    scaled = rig.resized(torch.tensor(drawn, dtype=torch.float64))
    image = scene.images[0, camera, :, :height, :width].permute(1, 2, 0)
    return View(
        name=name,
        image=image.cpu().contiguous().numpy(),
        intrinsics=scaled.intrinsics[0, 0].cpu().double(),
        camera_from_ref=scaled.camera_from_ref[0, 0].cpu().double(),
        height=drawn[0],
        width=drawn[1],
    )


def draw_cameras(
    scene: SceneBatch,
    contents: Contents,
    *,
    style: PictureStyle | None = None,
    camera_names: Sequence[str] | None = None,
) -> np.ndarray:
    """All cameras of a batch of one with boxes, labels and query trails: (H, W, 3) uint8 RGB."""
    style = style or PictureStyle()
    layers = box_layers(contents)
    return mosaic(
        [
            [draw_view(view, layers, contents.trails, style) for view in row]
            for row in scene_views(scene, style, camera_names)
        ]
    )


def draw_lidar_on_cameras(
    scene: SceneBatch,
    lidar: Tensor,
    *,
    style: PictureStyle | None = None,
    camera_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Lidar points (N, 3 or more) over all cameras, coloured by depth, near ones on top.

    The eye test of a projection: edges in depth lie on edges in the image.
    """
    style = style or PictureStyle()
    points = to_array(lidar[:, :3])
    picture = mosaic(
        [
            [draw_lidar_view(view, points, style) for view in row]
            for row in scene_views(scene, style, camera_names)
        ]
    )
    return np.concatenate([picture, depth_key(picture.shape[1], style)])


def draw_view(
    view: View, layers: Sequence[BoxLayer], trails: QueryTrails | None, style: PictureStyle
) -> np.ndarray:
    """One camera with its boxes, the farthest first: (h, w, 3)."""
    canvas = Canvas(view.height, view.width, BACKGROUND)
    canvas.paste(view.image)
    labels: list[Label] = []
    for layer in layers:
        labels = draw_boxes(canvas, view, layer) + labels
    if trails is not None:
        draw_trails(canvas, view, trails)
    title = title_area(view.name, style.font_size)
    picture = write_labels(canvas.finish(), labels, style.font_size - 2, taken=[title])
    return write_title(picture, view.name, style.font_size)


def draw_boxes(canvas: Canvas, view: View, layer: BoxLayer) -> list[Label]:
    """Draw the wireframes of a layer; returns labels of those in sight, in the layer's order."""
    if not len(layer.boxes):
        return []
    rays = view.rays(box_corners(torch.from_numpy(layer.boxes)).numpy())  # (N, 8, 3)
    planes = view_planes(view.height, view.width, LINE_MARGIN)
    labels: dict[int, Label] = {}
    for index in np.argsort(-rays[..., 2].mean(-1)).tolist():
        segments = wireframe(rays[index], planes)
        if not len(segments):
            continue
        color = layer.colors[index]
        left, top = np.maximum(segments.min((0, 1)), 0)
        right, bottom = np.minimum(segments.max((0, 1)), (view.width, view.height))
        if layer.is_reference:
            canvas.dashes(segments, color, 1.0, halo=0.5)
        else:
            width = 1.0 if bottom - top < 25 else 1.5 if bottom - top < 90 else 2.0
            canvas.polygon(clip_polygon(rays[index, :4], planes), color, 0.28)
            canvas.segments(segments, color, width, halo=0.5)
        text = (layer.texts if bottom - top >= FULL_LABEL else layer.short_texts)[index]
        if text and bottom - top >= SMALLEST_LABELLED:
            area = (float(left), float(top), float(right), float(bottom))
            labels[index] = Label(text, area, color, filled=not layer.is_reference)
    return [labels[index] for index in sorted(labels)]


def wireframe(rays: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Visible pieces (M, 2, 2) in pixels of a box's edges and of the line to its front.

    ``rays`` (8, 3) are those of the corners. The heading line runs over the floor of the box from
    its middle to the middle of the front edge.
    """
    front, floor = rays[[2, 3]].mean(0), rays[[2, 3, 6, 7]].mean(0)
    first, second = (list(ends) for ends in zip(*CORNER_EDGES, strict=True))
    starts, ends = np.vstack([rays[first], floor]), np.vstack([rays[second], front])
    return clip_segments(starts, ends, planes)[0]


def draw_trails(canvas: Canvas, view: View, trails: QueryTrails) -> None:
    """Draw where references moved, layer by layer, and where the layers sampled."""
    planes = view_planes(view.height, view.width)
    references = view.rays(to_array(trails.references))  # (L + 1, N, 3)
    samples = None if trails.samples is None else view.rays(to_array(trails.samples))
    num_layers = len(references) - 1
    for query, label in enumerate(trails.labels.tolist()):
        color, path = class_color(label), references[:, query]
        steps, _ = clip_segments(path[:-1], path[1:], planes)
        canvas.segments(steps, WHITE, 1.0, halo=0.5)
        for layer in range(num_layers if samples is not None else 0):
            looked = samples[layer, query]  # type: ignore[index]
            for pixel in to_pixels(looked[in_sight(looked, planes)]):
                canvas.circle(pixel, 1.2 + 1.2 * layer / num_layers, color, 0)
        for pixel in to_pixels(path[-1:][in_sight(path[-1:], planes)]):
            canvas.circle(pixel, 3.0, WHITE, 0)
            canvas.circle(pixel, 2.0, color, 0)


def draw_lidar_view(view: View, points_ref: np.ndarray, style: PictureStyle) -> np.ndarray:
    """One camera, grey and dimmed, under the lidar points (N, 3) that it sees: (h, w, 3)."""
    canvas = Canvas(view.height, view.width, BACKGROUND)
    grey = (0.6 * cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)).astype(np.uint8)
    canvas.paste(np.repeat(grey[..., None], 3, axis=-1))
    rays = view.rays(points_ref)
    rays = rays[in_sight(rays, view_planes(view.height, view.width))]
    rays = rays[np.argsort(-rays[:, 2])]
    canvas.dots(to_pixels(rays), depth_colors(rays[:, 2]), size=5)
    return write_title(canvas.finish(), view.name, style.font_size)


def depth_colors(depth: np.ndarray) -> np.ndarray:
    """Colours (N, 3) of depths (N,) in metres: viridis over the logarithm, yellow is near.

    The darkest end of the map is left out, which would be lost on dark images.
    """
    near, far = np.log(LIDAR_RANGE)
    fraction = 1 - (np.log(np.maximum(depth, LIDAR_RANGE[0])) - near) / (far - near)
    levels = np.rint(30 + 225 * fraction.clip(0, 1)).astype(np.uint8)
    if not len(levels):
        return np.zeros((0, 3), dtype=np.uint8)
    return cv2.applyColorMap(levels[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]


def depth_key(width: int, style: PictureStyle) -> np.ndarray:
    """A strip (h, width, 3) that says which colour is how far."""
    height = even(round(style.font_size * 2.6))
    strip = np.full((height, width, 3), PANEL, dtype=np.uint8)
    bar = slice(60, min(width - 60, 460))
    depth = np.geomspace(*LIDAR_RANGE, max(1, bar.stop - bar.start))
    strip[height // 3 : height - height // 3, bar] = depth_colors(depth)
    image = Image.fromarray(strip)
    draw = ImageDraw.Draw(image)
    near, far = (f"{metres:.0f} m" for metres in LIDAR_RANGE)
    draw.text((52, height / 2), near, fill=TEXT, font=font(style.font_size), anchor="rm")
    draw.text((bar.stop + 8, height / 2), far, fill=TEXT, font=font(style.font_size), anchor="lm")
    return np.asarray(image)


def mosaic(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Join pictures (h, w, 3) row by row, each row centred: (H, W, 3)."""
    widths = [sum(tile.shape[1] + GAP for tile in row) - GAP for row in rows]
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    shape = (sum(heights) + GAP * (len(rows) - 1), max(widths), 3)
    joined = np.full(shape, PANEL, dtype=np.uint8)
    top = 0
    for row, row_width, row_height in zip(rows, widths, heights, strict=True):
        left = (shape[1] - row_width) // 2
        for tile in row:
            down = top + (row_height - tile.shape[0]) // 2
            joined[down : down + tile.shape[0], left : left + tile.shape[1]] = tile
            left += tile.shape[1] + GAP
        top += row_height + GAP
    return joined
