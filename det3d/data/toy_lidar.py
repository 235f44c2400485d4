"""A 32-beam lidar that casts rays at the solids of a scene and at the ground."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_mesh import SceneMesh, place_points
from det3d.data.toy_rig import LIDAR, LIDAR_BEAMS, LIDAR_ELEVATION, LIDAR_RANGE, LIDAR_STEPS, yaw_to_matrix
from det3d.data.toy_shapes import BOX_MARGIN, Shape

Array = NDArray[np.float64]
Index = NDArray[np.int64]

GROUND = -1
NOTHING = -2
DROPOUT = 0.03  # share of rays that return nothing


@dataclass(frozen=True)
class Sweep:
    """One lidar revolution as a range image of beams (R) by azimuth steps (S).

    ranges (R, S) metres, infinite without return; items (R, S): what was hit, ``GROUND`` or
    ``NOTHING``; rays (R, S, 3): unit directions in the town frame; eye (3,).
    """

    ranges: Array
    items: Index
    rays: Array
    eye: Array

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
    middle, radius = _spheres(mesh, poses)
    gap = np.linalg.norm(middle[:, :2] - eye[:2], axis=1) - radius
    for item in np.flatnonzero(gap < LIDAR_RANGE):
        shape = mesh.shapes[item]
        window = _window(shape, poses[item], eye, turn)
        if window is None:
            continue
        hit = _hit_solids(shape, poses[item], eye, rays[window])
        closer = hit < ranges[window]
        ranges[window] = np.where(closer, hit, ranges[window])
        items[window] = np.where(closer, item, items[window])
    lost = (ranges > LIDAR_RANGE) | (rng.random(ranges.shape) < DROPOUT)
    ranges[lost], items[lost] = np.inf, NOTHING
    return Sweep(ranges, items, rays, eye)


def _spheres(mesh: SceneMesh, poses: Array) -> tuple[Array, Array]:
    lower, upper = mesh.bounds
    return place_points((lower + upper) / 2, poses), np.linalg.norm(upper - lower, axis=1) / 2


def _window(shape: Shape, pose: Array, eye: Array, turn: Array) -> tuple[Index, Index] | None:
    """Rows (r, 1) and columns (1, s) of the range image that may see a shape's box."""
    lower, upper = shape.bounds
    lower, upper = lower - BOX_MARGIN, upper + BOX_MARGIN
    pick = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners = place_points(np.where(pick, upper, lower), np.broadcast_to(pose, (8, 3)))
    sensor = (corners - eye) @ turn @ LIDAR.ego_from_sensor
    flat = np.linalg.norm(sensor[:, :2], axis=1)
    azimuth = np.arctan2(sensor[:, 1], sensor[:, 0])
    middle = np.arctan2(*sensor[:, 1::-1].sum(0)) if flat.min() > 1e-6 else 0.0
    apart = (azimuth - middle + np.pi) % (2 * np.pi) - np.pi
    start, stop = middle + apart.min(), middle + apart.max()
    step = 2 * np.pi / LIDAR_STEPS
    columns = np.arange(int(np.floor(start / step)) - 1, int(np.ceil(stop / step)) + 1) % LIDAR_STEPS
    if stop - start > np.pi:
        columns = np.arange(LIDAR_STEPS)
    # Along an edge the elevation may pass that of both corners: bound it by the nearest distance.
    nearest = max(flat.min() - np.linalg.norm((upper - lower)[:2]) / 2, 0.1)
    low, high = sensor[:, 2].min(), sensor[:, 2].max()
    lowest = np.arctan2(low, nearest if low < 0 else flat.max())
    highest = np.arctan2(high, nearest if high > 0 else flat.max())
    gap = (LIDAR_ELEVATION[1] - LIDAR_ELEVATION[0]) / (LIDAR_BEAMS - 1)
    first = max(int((lowest - LIDAR_ELEVATION[0]) // gap), 0)
    last = min(int((highest - LIDAR_ELEVATION[0]) // gap) + 2, LIDAR_BEAMS)
    if first >= last:
        return None
    return np.arange(first, last)[:, None], columns[None]


def _hit_solids(shape: Shape, pose: Array, eye: Array, rays: Array) -> Array:
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


def count_points(sweep: Sweep, shape: Shape, pose: Array, ego_yaw: float) -> int:
    """Lidar points inside the annotated box of a shape, as the benchmark counts them."""
    window = _window(shape, pose, sweep.eye, yaw_to_matrix(ego_yaw))
    if window is None:
        return 0
    points = sweep.points[window]
    offset = points - [pose[0], pose[1], 0]
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    local = [cos * offset[..., 0] + sin * offset[..., 1], cos * offset[..., 1] - sin * offset[..., 0],
             offset[..., 2]]  # fmt: skip
    lower, upper = shape.bounds
    inside = np.ones(points.shape[:2], bool)
    for axis in range(3):
        inside &= (local[axis] >= lower[axis] - BOX_MARGIN) & (local[axis] <= upper[axis] + BOX_MARGIN)
    return int(inside.sum())


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
