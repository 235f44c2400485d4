"""The scene from above: forward is up, left is left."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw

from det3d.boxes import box_corners
from det3d.cameras import CameraRig
from det3d.visualization.cameras import PictureStyle, camera_azimuths
from det3d.visualization.canvas import Canvas
from det3d.visualization.contents import BoxLayer, Contents, QueryTrails, box_layers, to_array
from det3d.visualization.palette import BACKGROUND, GRID, MUTED, PANEL, WHITE, class_color
from detr2d.labels import Color, font

RING_STEP = 10.0  # metres between range rings
SLOWEST_ARROW = 0.5  # m/s below which no velocity is drawn
ARROW_SECONDS = 1.0  # an arrow ends where the object will be after this time
EGO_OUTLINE = ((2.9, 0.6), (2.3, 0.95), (-1.7, 0.95), (-1.9, 0.7))  # (forward, left) m, half a car


class Ground:
    """Maps metres of the ref frame to the pixels of a square picture around the origin."""

    def __init__(self, size: int, style: PictureStyle) -> None:
        self.size = size
        self.scale = size / (2 * style.reach)  # pixels per metre
        cos, sin = math.cos(style.forward_yaw), math.sin(style.forward_yaw)
        self.axes = np.array([[sin, -cos], [-cos, -sin]])  # rows: right, backward (image down)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of points (..., 2 or 3) of the ref frame."""
        return self.size / 2 + self.scale * (points[..., :2] @ self.axes.T)

    def ahead(self, forward_left: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of points (..., 2) given as metres (forward, left)."""
        return self.size / 2 - self.scale * forward_left[..., ::-1]


def draw_birds_eye(
    rig: CameraRig, contents: Contents, *, size: int = 720, style: PictureStyle | None = None
) -> np.ndarray:
    """A square of ``size`` pixels from above with everything in ``contents``: uint8 RGB.

    Shows lidar points by density, range rings, the ego vehicle, the viewing angle of every present
    camera of the rig's first scene, boxes with a mark at the front, and velocities.
    """
    style = style or PictureStyle()
    canvas, ground = Canvas(size, size, BACKGROUND), Ground(size, style)
    draw_field_of_view(canvas, ground, rig, style)
    draw_rings(canvas, ground, style)
    if contents.lidar is not None:
        draw_points(canvas, ground, to_array(contents.lidar[:, :3]))
    draw_ego(canvas, ground)
    for layer in box_layers(contents):
        draw_layer(canvas, ground, layer)
    if contents.trails is not None:
        draw_trails(canvas, ground, contents.trails)
    return write_ranges(canvas.finish(), ground, style)


def draw_rings(canvas: Canvas, ground: Ground, style: PictureStyle) -> None:
    """Circles every ten metres and a cross through the origin."""
    middle = np.full(2, ground.size / 2)
    for ring in range(1, int(style.reach // RING_STEP) + 1):
        canvas.circle(middle, ring * RING_STEP * ground.scale, GRID, 0.5)
    ends = ground.ahead(style.reach * np.array([[[1, 0], [-1, 0]], [[0, 1], [0, -1]]]))
    canvas.segments(ends, PANEL, 1.0)


def write_ranges(picture: np.ndarray, ground: Ground, style: PictureStyle) -> np.ndarray:
    """Write the radius at every second ring, back right where cameras and roads are rare.

    With fewer than three rings, at every one.
    """
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    rings = int(style.reach // RING_STEP)
    step = 2 if rings >= 3 else 1
    for ring in range(step, rings + 1, step):
        metres = ring * RING_STEP
        x, y = ground.ahead(metres * np.array([math.cos(-2.0), math.sin(-2.0)])).tolist()
        text = f"{metres:.0f} m"
        draw.text(
            (x, y),
            text,
            fill=MUTED,
            font=font(style.font_size - 1),
            anchor="mm",
            stroke_width=2,
            stroke_fill=BACKGROUND,
        )
    return np.asarray(image)


def draw_field_of_view(canvas: Canvas, ground: Ground, rig: CameraRig, style: PictureStyle) -> None:
    """Lighten the sector that each camera sees."""
    azimuths = camera_azimuths(rig, style.forward_yaw)
    for camera, azimuth in enumerate(azimuths):
        if not bool(rig.present[0, camera]):
            continue
        intrinsics, width = rig.intrinsics[0, camera].double(), float(rig.image_sizes[0, camera, 1])
        focal, middle = float(intrinsics[0, 0]), float(intrinsics[0, 2])
        left, right = math.atan2(middle, focal), math.atan2(middle - width, focal)
        angles = azimuth + np.linspace(left, right, 25)
        arc = style.reach * np.stack([np.cos(angles), np.sin(angles)], -1)
        canvas.polygon(ground.ahead(np.vstack([[0, 0], arc])), WHITE, 0.05)


def draw_points(canvas: Canvas, ground: Ground, points: np.ndarray) -> None:
    """Lidar points (N, 3) by density; higher ones are lighter."""
    order = np.argsort(points[:, 2])
    height = (points[order, 2] + 2).clip(0, 4) / 4  # of LIDAR_TOP, 1.8 m above the road
    shade = 90 + 110 * height
    colors = np.stack([shade * 0.85, shade * 0.95, shade * 1.1], -1).astype(np.uint8)
    canvas.dots(ground.pixels(points[order]), colors, size=2)


def draw_ego(canvas: Canvas, ground: Ground) -> None:
    """The vehicle at the origin, its front up."""
    half = np.array(EGO_OUTLINE)
    outline = np.vstack([half, half[::-1] * (1, -1)])
    canvas.polygon(ground.ahead(outline), MUTED, 0.9)
    screen = np.array([[1.3, 0.7], [0.6, 0.75], [0.6, -0.75], [1.3, -0.7]])
    canvas.polygon(ground.ahead(screen), BACKGROUND, 0.9)


def draw_layer(canvas: Canvas, ground: Ground, layer: BoxLayer) -> None:
    """Boxes from above, the most important on top, with heading and velocity."""
    corners = box_corners(torch.from_numpy(layer.boxes)).numpy()
    for index in reversed(range(len(layer.boxes))):
        floor = ground.pixels(corners[index, [2, 3, 7, 6]])  # front right, front left, rear ...
        box, color = layer.boxes[index], layer.colors[index]
        sides = np.stack([floor, np.roll(floor, -1, axis=0)], 1)
        heading = np.stack([floor.mean(0), floor[:2].mean(0)])[None]
        if layer.is_reference:
            canvas.dashes(sides, color, 1.0)
            canvas.segments(heading, color, 1.0)
        else:
            canvas.polygon(floor, color, 0.35)
            canvas.segments(np.concatenate([sides, heading]), color, 1.5)
            canvas.segments(sides[:1], color, 3.0)  # front
        draw_velocity(canvas, ground, box, color)


def draw_velocity(canvas: Canvas, ground: Ground, box: np.ndarray, color: Color) -> None:
    """An arrow from the centre to where the object will be in a second; none if unknown."""
    speed = float(np.hypot(box[7], box[8]))
    if not speed >= SLOWEST_ARROW:  # also NaN
        return
    tail, tip = ground.pixels(np.stack([box[:2], box[:2] + ARROW_SECONDS * box[7:9]]))
    length = float(np.linalg.norm(tip - tail))
    along = (tip - tail) / length
    across = np.array([-along[1], along[0]])
    barb = min(6.0, 0.5 * length)
    head = np.stack([tip, tip - barb * (along - 0.5 * across), tip - barb * (along + 0.5 * across)])
    canvas.segments(np.stack([tail, tip - 0.5 * barb * along])[None], color, 1.0)
    canvas.polygon(head, color, 1.0)


def draw_trails(canvas: Canvas, ground: Ground, trails: QueryTrails) -> None:
    """The way of each query's reference point and the points that it sampled; one alone is bold."""
    references = ground.pixels(to_array(trails.references))  # (L + 1, N, 2)
    samples = None if trails.samples is None else ground.pixels(to_array(trails.samples))
    bold = 2.0 if len(trails.labels) == 1 else 1.0
    for query, label in enumerate(trails.labels.tolist()):
        path, color = references[:, query], class_color(label)
        if samples is not None:
            for pixel in samples[:, query].reshape(-1, 2):
                canvas.circle(pixel, 1.2 * bold, color, 0)
        canvas.segments(np.stack([path[:-1], path[1:]], 1), WHITE, 0.5 * bold)
        canvas.circle(path[0], 1.5 * bold, WHITE, 0.5 * bold)
        canvas.circle(path[-1], 2.0 * bold, WHITE, 0)
