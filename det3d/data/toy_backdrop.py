"""Ground and sky of a camera image, looked up from a bird's-eye raster and a panorama."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_rig import CAMERAS, Sensor
from det3d.data.toy_town import RESOLUTION, SKY, Ground, Light

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Plane = NDArray[np.float32]

MIP_LEVELS = 5
PANORAMA_SIZE = (168, 1440)  # rows, columns; a quarter of a degree each
PANORAMA_TOP = np.deg2rad(40.0)
PANORAMA_STEP = np.deg2rad(0.25)
FARTHEST_GROUND = 600.0


@dataclass(frozen=True)
class View:
    """One camera at one image size, in the ego frame.

    intrinsics (3, 3); camera_from_ego rotation (3, 3); eye (3,). Per pixel (H, W): ``ground`` x
    and y where the pixel's ray meets the ground, ``distance`` to there, mip ``level`` to read,
    ``azimuth`` and ``elevation`` of the ray, ``is_sky``. ``sky_end`` and ``ground_start`` are the
    rows after the last sky and at the first ground pixel.
    """

    size: tuple[int, int]
    intrinsics: Array
    camera_from_ego: Array
    eye: Array
    ground: tuple[Plane, Plane]
    distance: Plane
    level: NDArray[np.int32]
    azimuth: Plane
    elevation: Plane
    is_sky: NDArray[np.bool_]
    sky_end: int
    ground_start: int


@lru_cache(maxsize=4)
def make_views(image_size: tuple[int, int]) -> tuple[View, ...]:
    """The views of all cameras of the rig at one image size (height, width)."""
    return tuple(_make_view(camera, image_size) for camera in CAMERAS)


def _make_view(camera: Sensor, image_size: tuple[int, int]) -> View:
    height, width = image_size
    intrinsics = camera.intrinsics(image_size)
    eye = np.array(camera.translation)
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([
        (u - intrinsics[0, 2]) / intrinsics[0, 0], (v - intrinsics[1, 2]) / intrinsics[1, 1],
        np.ones_like(u),
    ], -1) @ camera.ego_from_sensor.T  # fmt: skip
    down = -rays[..., 2]
    stretch = eye[2] / np.maximum(down, 1e-9)
    flat = np.linalg.norm(rays[..., :2], axis=-1)
    distance = stretch * flat
    is_sky = (down <= 0) | (distance > FARTHEST_GROUND)
    distance = np.where(is_sky, FARTHEST_GROUND, distance)
    # Metres of ground under one pixel, geometric mean of across and along the view.
    across = distance / intrinsics[0, 0]
    along = across * distance / eye[2]
    level = np.log2(np.sqrt(across * along) / RESOLUTION).round().clip(0, MIP_LEVELS - 1)
    stretch = np.where(is_sky, 0, stretch)
    sky_rows, ground_rows = is_sky.any(1), ~is_sky.all(1)
    return View(
        size=image_size,
        intrinsics=intrinsics,
        camera_from_ego=camera.ego_from_sensor.T,
        eye=eye,
        ground=(
            (eye[0] + stretch * rays[..., 0]).astype(np.float32),
            (eye[1] + stretch * rays[..., 1]).astype(np.float32),
        ),
        distance=distance.astype(np.float32),
        level=level.astype(np.int32),
        azimuth=np.arctan2(rays[..., 1], rays[..., 0]).astype(np.float32),
        elevation=np.arctan2(rays[..., 2], flat).astype(np.float32),
        is_sky=is_sky,
        sky_end=int(np.flatnonzero(sky_rows).max(initial=-1)) + 1,
        ground_start=int(np.flatnonzero(ground_rows).min(initial=height)),
    )


@dataclass(frozen=True)
class Backdrop:
    """What all images of a scene share: ground in ``MIP_LEVELS`` resolutions and the sky.

    atlas: level 0 at the left, the others stacked beside it; offsets (MIP_LEVELS, 2): their top
    left corners as x, y; labels: stuff classes of the ground at full resolution.
    """

    atlas: Image
    offsets: Plane
    labels: Image
    origin: tuple[float, float]
    panorama: Image
    light: Light


def make_backdrop(ground: Ground, origin: tuple[float, float], light: Light,
                  rng: np.random.Generator) -> Backdrop:  # fmt: skip
    """Prepare the ground pyramid and paint the sky."""
    levels = [ground.colours]
    for _ in range(MIP_LEVELS - 1):
        height, width = levels[-1].shape[:2]
        half = cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        levels.append(half.astype(np.uint8, copy=False))
    height, width = ground.labels.shape
    atlas = np.zeros((height, width + levels[1].shape[1], 3), np.uint8)
    offsets = [(0, 0)]
    atlas[:, :width] = ground.colours
    top = 0
    for level in levels[1:]:
        rows, columns = level.shape[:2]
        atlas[top : top + rows, width : width + columns] = level
        offsets.append((width, top))
        top += rows
    return Backdrop(
        atlas, np.array(offsets, np.float32), ground.labels, origin, _panorama(light, rng), light
    )


def _panorama(light: Light, rng: np.random.Generator) -> Image:
    """Sky all around: gradient, clouds, and a hazy skyline of roofs and woods."""
    rows, columns = PANORAMA_SIZE
    elevation = PANORAMA_TOP - (np.arange(rows) + 0.5) * PANORAMA_STEP
    height = np.clip(elevation / PANORAMA_TOP, 0, 1)[:, None, None] ** 0.7
    sky = light.horizon + (light.zenith - light.horizon) * height
    sky = np.broadcast_to(sky, (rows, columns, 3)).astype(np.float32)
    noise = rng.normal(size=(rows, columns)).astype(np.float32)
    wide = np.concatenate([noise, noise, noise], 1)
    clouds = sum(
        weight * _unit(cv2.GaussianBlur(wide, (0, 0), spread, sigmaY=spread * 0.45))
        for spread, weight in ((34.0, 1.0), (11.0, 0.55), (4.0, 0.25))
    )[:, columns : 2 * columns]
    cover = np.clip((clouds - rng.uniform(0.2, 1.0)) * 0.6, 0, 0.8)[..., None]
    bright = np.clip(0.35 * light.zenith + 0.75 * light.horizon + 0.12, 0, 1)
    sky = sky * (1 - cover) + bright.astype(np.float32) * cover
    far = (light.ambient + 0.5 * light.direct) * np.array([0.3, 0.36, 0.33])
    air = np.exp(-220 / light.haze)
    start = 0
    while start < columns:
        width = int(rng.integers(6, 40))
        tall = abs(rng.normal(1.2, 1.4)) + 0.4
        top = int((PANORAMA_TOP - np.deg2rad(tall)) / PANORAMA_STEP)
        tone = far * rng.uniform(0.7, 1.3) * (1 + rng.uniform(-0.15, 0.15, 3))
        sky[top:, start : start + width] = light.horizon * (1 - air) + tone * air
        start += width
    return np.clip(cv2.GaussianBlur(sky, (0, 0), 0.6) * 255, 0, 255).astype(np.uint8)


def _unit(values: Plane) -> Plane:
    return values / values.std()


def paint_backdrop(view: View, backdrop: Backdrop, pose: Array, shadows: Image,
                   *, labelled: bool) -> Image:  # fmt: skip
    """Ground and sky (H, W, 4) uint8: BGR and stuff class (0 unless ``labelled``).

    pose (3,): x, y, yaw of the ego in the town frame; shadows (H, W): 0 to 255.
    """
    height, width = view.size
    image = np.zeros((height, width, 3), np.uint8)
    if view.sky_end:
        image[: view.sky_end] = _sky(view, backdrop, float(pose[2]))
    labels = np.full((height, width), SKY if labelled else 0, np.uint8)
    rows = slice(view.ground_start, height)
    if view.ground_start < height:
        place = _ground_pixels(view, backdrop, pose, rows)
        ground = _ground(view, backdrop, place, shadows[rows], rows)
        mixed = slice(0, max(view.sky_end - view.ground_start, 0))
        keep = view.is_sky[rows][mixed]
        ground[mixed][keep] = image[rows][mixed][keep]
        image[rows] = ground
        if labelled:
            found = cv2.remap(backdrop.labels, *place, cv2.INTER_NEAREST)
            labels[rows] = np.where(view.is_sky[rows], SKY, found)
    return cv2.merge([image, labels])  # type: ignore[return-value]


def _sky(view: View, backdrop: Backdrop, yaw: float) -> Image:
    part = slice(0, view.sky_end)
    columns = np.mod((view.azimuth[part] + np.float32(yaw)) / np.float32(PANORAMA_STEP), PANORAMA_SIZE[1])
    lines = np.float32(PANORAMA_TOP / PANORAMA_STEP) - view.elevation[part] / np.float32(PANORAMA_STEP)
    lines = np.clip(lines - 0.5, 0, PANORAMA_SIZE[0] - 1)
    return cv2.remap(  # type: ignore[return-value]
        backdrop.panorama, columns.astype(np.float32), lines, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )


def _ground_pixels(view: View, backdrop: Backdrop, pose: Array, rows: slice) -> tuple[Plane, Plane]:
    """Position of each image pixel in the full-resolution ground raster, held at its borders."""
    cos, sin = np.float32(np.cos(pose[2]) / RESOLUTION), np.float32(np.sin(pose[2]) / RESOLUTION)
    x, y = view.ground[0][rows], view.ground[1][rows]
    shift = (pose[:2] - backdrop.origin) / RESOLUTION
    height, width = backdrop.labels.shape
    across = cos * x - sin * y + np.float32(shift[0])
    down = sin * x + cos * y + np.float32(shift[1])
    # Sixteen pixels from the border, so that the coarsest level interpolates inside itself.
    return np.clip(across, 24, width - 24), np.clip(down, 24, height - 24)


def _ground(view: View, backdrop: Backdrop, place: tuple[Plane, Plane], shadows: Image, rows: slice) -> Image:
    level = view.level[rows]
    scale = np.exp2(-level.astype(np.float32))
    across = place[0] * scale - np.float32(0.5) + backdrop.offsets[level, 0]
    down = place[1] * scale - np.float32(0.5) + backdrop.offsets[level, 1]
    found = cv2.remap(backdrop.atlas, across, down, cv2.INTER_LINEAR)
    light = backdrop.light
    clear = np.exp(view.distance[rows] / np.float32(-light.haze))
    gain = clear * (1 - np.float32(light.shadow / 255) * shadows)
    hazy = found * gain[..., None] + ((1 - clear) * 255)[..., None] * light.horizon.astype(np.float32)
    return np.clip(hazy, 0, 255).astype(np.uint8)
