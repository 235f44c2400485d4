"""A 32-beam lidar that casts rays at the solids of a scene and at the ground."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_mesh import SceneMesh, place_points
from det3d.data.toy_rig import (
    LIDAR,
    LIDAR_BEAMS,
    LIDAR_ELEVATION,
    LIDAR_RANGE,
    LIDAR_STEPS,
    yaw_to_matrix,
)
from det3d.data.toy_shapes import BOX_MARGIN, Shape

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Window = tuple[Index, Index]  # rows (r, 1) and columns (1, s) of the range image

GROUND = -1
NOTHING = -2
DROPOUT = 0.03  # share of rays that return nothing


@dataclass(frozen=True)
class Sweep:
    """One lidar revolution as a range image of beams (R) by azimuth steps (S).

    ranges (R, S) metres, infinite without return; items (R, S): what was hit, ``GROUND`` or
    ``NOTHING``; rays (R, S, 3): unit directions in the town frame; eye (3,); windows: rows and
    columns that may see each item.
    """

    ranges: Array
    items: Index
    rays: Array
    eye: Array
    windows: dict[int, Window]

    @cached_property
    def points(self) -> Array:
        """Hits (R, S, 3) in the town frame; far away where there is none."""
        return self.eye + np.minimum(self.ranges, 1e6)[..., None] * self.rays


@lru_cache(maxsize=1)
def _ego_rays() -> Array:
    """Unit rays (R, S, 3) in the ego frame, azimuth counter-clockwise from the sensor's +x."""
    elevation = np.linspace(*LIDAR_ELEVATION, LIDAR_BEAMS)[:, None]
    azimuth = (np.arange(LIDAR_STEPS) + 0.5)[None] * (2 * np.pi / LIDAR_STEPS)
    flat = np.cos(elevation)
    rays = [flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) + 0 * azimuth]
    return np.einsum("ij,rsj->rsi", LIDAR.ego_from_sensor, np.stack(rays, -1))


def cast_sweep(mesh: SceneMesh, poses: Array, ego: Array, rng: np.random.Generator) -> Sweep:
    """Cast one revolution with the ego at (x, y, yaw); poses (I, 3) of all items at that time."""
    turn = yaw_to_matrix(ego[2])
    rays = np.einsum("ij,rsj->rsi", turn, _ego_rays())
    eye = turn @ np.array(LIDAR.translation) + [ego[0], ego[1], 0]
    # The ground lies up to a centimetre low, so that it never reaches into a box.
    surface = -0.01 * rng.random(rays.shape[:2])
    with np.errstate(divide="ignore"):
        ranges = np.where(rays[..., 2] < 0, (surface - eye[2]) / rays[..., 2], np.inf)
    items = np.full(ranges.shape, GROUND)
    windows = _windows(mesh, poses, eye, turn)
    for item, window in windows.items():
        hit = hit_solids(mesh.shapes[item], poses[item], eye, rays[window])
        closer = hit < ranges[window]
        ranges[window] = np.where(closer, hit, ranges[window])
        items[window] = np.where(closer, item, items[window])
    lost = (ranges > LIDAR_RANGE) | (rng.random(ranges.shape) < DROPOUT)
    ranges[lost], items[lost] = np.inf, NOTHING
    return Sweep(ranges, items, rays, eye, windows)


def _windows(mesh: SceneMesh, poses: Array, eye: Array, turn: Array) -> dict[int, Window]:
    """Where in the range image the box of each item may appear; items out of sight are left out."""
    lower, upper = (bound + margin for bound, margin in zip(mesh.bounds, (-BOX_MARGIN, BOX_MARGIN),
                                                            strict=True))  # fmt: skip
    pick = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)], bool)
    corners = np.where(pick, upper[:, None], lower[:, None])  # (I, 8, 3)
    placed = place_points(corners.reshape(-1, 3), np.repeat(poses, 8, axis=0)) - eye
    sensor = np.einsum("nk,kj->nj", placed, turn @ LIDAR.ego_from_sensor).reshape(-1, 8, 3)
    flat = np.linalg.norm(sensor[..., :2], axis=-1)
    middle = np.arctan2(sensor[..., 1].sum(1), sensor[..., 0].sum(1))[:, None]
    apart = (np.arctan2(sensor[..., 1], sensor[..., 0]) - middle + np.pi) % (2 * np.pi) - np.pi
    step = 2 * np.pi / LIDAR_STEPS
    start = np.floor((middle[:, 0] + apart.min(1)) / step).astype(int) - 1
    stop = np.ceil((middle[:, 0] + apart.max(1)) / step).astype(int) + 1
    all_round = np.ptp(apart, axis=1) > 0.9 * np.pi
    start, stop = np.where(all_round, 0, start), np.where(all_round, LIDAR_STEPS, stop)
    # Along an edge the elevation may pass that of both corners: bound it by the nearest distance.
    nearest = np.maximum(flat.min(1) - np.linalg.norm((upper - lower)[:, :2], axis=1) / 2, 0.1)
    low, high = sensor[..., 2].min(1), sensor[..., 2].max(1)
    lowest = np.arctan2(low, np.where(low < 0, nearest, flat.max(1)))
    highest = np.arctan2(high, np.where(high > 0, nearest, flat.max(1)))
    gap = (LIDAR_ELEVATION[1] - LIDAR_ELEVATION[0]) / (LIDAR_BEAMS - 1)
    first = np.floor((lowest - LIDAR_ELEVATION[0]) / gap).clip(0).astype(int)
    last = (np.floor((highest - LIDAR_ELEVATION[0]) / gap) + 2).clip(0, LIDAR_BEAMS).astype(int)
    seen = np.flatnonzero((nearest < LIDAR_RANGE) & (first < last))
    windows = {}
    for k in seen.tolist():
        columns = np.arange(start[k], stop[k]) % LIDAR_STEPS
        windows[k] = (np.arange(first[k], last[k])[:, None], columns[None])
    return windows


def hit_solids(shape: Shape, pose: Array, eye: Array, rays: Array) -> Array:
    """Distances (r, s) to the nearest solid of a shape along rays (r, s, 3); infinite if missed.

    A ray is inside a convex solid between the last face it enters and the first that it leaves.
    """
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])
    solid_faces = ~shape.details
    normals, offsets = shape.normals[solid_faces], shape.offsets[solid_faces]
    local_eye = turn @ (eye - [pose[0], pose[1], 0])
    slopes = np.einsum("rsk,fk->frs", rays, normals @ turn)
    heights = offsets - np.einsum("fk,k->f", normals, local_eye)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = heights[:, None, None] / slopes
    starts = np.flatnonzero(np.diff(shape.solids[solid_faces], prepend=-1))
    entering = slopes < 0
    enter = np.maximum.reduceat(np.where(entering, reach, -np.inf), starts, axis=0)
    leave = np.minimum.reduceat(np.where(entering, np.inf, reach), starts, axis=0)
    return np.where((enter <= leave) & (enter > 0), enter, np.inf).min(0)


def count_points(sweep: Sweep, mesh: SceneMesh, poses: Array) -> list[int]:
    """Lidar points inside the annotated box of every actor, as the benchmark counts them."""
    counts = [0] * mesh.num_actors
    lower, upper = mesh.bounds
    for actor, window in sweep.windows.items():
        if actor >= mesh.num_actors:
            break
        x, y, yaw = poses[actor].tolist()
        points = sweep.points[window]
        along, across = points[..., 0] - x, points[..., 1] - y
        cos, sin = math.cos(yaw), math.sin(yaw)
        local = (cos * along + sin * across, cos * across - sin * along, points[..., 2])
        inside = np.ones(along.shape, bool)
        for value, low, high in zip(local, lower[actor], upper[actor], strict=True):
            inside &= (value >= low - BOX_MARGIN) & (value <= high + BOX_MARGIN)
        counts[actor] = int(inside.sum())
    return counts


def sweep_file(sweep: Sweep, ego: Array, mesh: SceneMesh, rng: np.random.Generator) -> bytes:
    """The content of a ``.pcd.bin`` file: float32 x, y, z in the lidar frame, intensity, ring."""
    turn = yaw_to_matrix(ego[2])
    returned = np.isfinite(sweep.ranges)
    points = ((sweep.points[returned] - sweep.eye) @ turn) @ LIDAR.ego_from_sensor
    items = sweep.items[returned]
    brightness = np.array([shape.colours.mean() for shape in mesh.shapes] + [0.0])
    intensity = np.where(items == GROUND, 12.0, 8 + 70 * brightness[np.maximum(items, GROUND)])
    intensity *= rng.uniform(0.7, 1.3, len(items))
    rings = np.nonzero(returned)[0]
    columns = [*points.T, np.round(intensity), rings]
    return np.stack(columns, -1).astype("<f4").tobytes()
