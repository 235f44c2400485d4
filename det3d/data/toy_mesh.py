"""All faces of a scene in flat arrays, posed at a time: what the painter and the lidar work on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_motion import footprint_corners
from det3d.data.toy_scene import ToyScene
from det3d.data.toy_shapes import Shape
from det3d.data.toy_town import Light

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class SceneMesh:
    """Shapes of the I items of a scene, the A actors first, then the fixtures.

    Flat arrays over all vertices (N), faces (F) and solids (P): ``vertices`` are local to the
    item; ``first_face`` (I + 1,) and ``first_vertex`` (I + 1,) delimit the items; ``stuff`` (I,)
    is the panoptic class of a fixture and 0 for actors.
    """

    shapes: tuple[Shape, ...]
    num_actors: int
    stuff: Index
    vertices: Array
    item_of_vertex: Index
    faces: Index
    corners: Index
    normals: Array
    offsets: Array
    colours: Array
    glow: Array
    details: NDArray[np.bool_]
    item_of_face: Index
    solid_of_face: Index
    first_face: Index
    first_vertex: Index

    @cached_property
    def bounds(self) -> tuple[Array, Array]:
        """Local bounds of every item, (I, 3) twice."""
        pairs = [shape.bounds for shape in self.shapes]
        return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])

    @cached_property
    def solid_bounds(self) -> tuple[Array, Array]:
        """Local bounds of the solids of every item, (I, most, 3) twice; padded by NaN."""
        most = max(len(shape.lower) for shape in self.shapes)
        lower = np.full((len(self.shapes), most, 3), np.nan)
        upper = lower.copy()
        for item, shape in enumerate(self.shapes):
            lower[item, : len(shape.lower)] = shape.lower
            upper[item, : len(shape.upper)] = shape.upper
        return lower, upper


def make_mesh(scene: ToyScene) -> SceneMesh:
    """Join the shapes of a scene."""
    shapes = [a.shape for a in scene.actors] + [f.shape for f in scene.fixtures]
    num_vertices = np.array([len(s.vertices) for s in shapes])
    num_faces = np.array([len(s.faces) for s in shapes])
    first_vertex = np.concatenate([[0], np.cumsum(num_vertices)])
    return SceneMesh(
        shapes=tuple(shapes),
        num_actors=len(scene.actors),
        stuff=np.array([0] * len(scene.actors) + [f.stuff for f in scene.fixtures]),
        vertices=np.concatenate([s.vertices for s in shapes]),
        item_of_vertex=np.repeat(np.arange(len(shapes)), num_vertices),
        faces=np.concatenate([s.faces + o for s, o in zip(shapes, first_vertex, strict=False)]),
        corners=np.concatenate([s.corners for s in shapes]),
        normals=np.concatenate([s.normals for s in shapes]),
        offsets=np.concatenate([s.offsets for s in shapes]),
        colours=np.concatenate([s.colours for s in shapes]),
        glow=np.concatenate([s.glow for s in shapes]),
        details=np.concatenate([s.details for s in shapes]),
        item_of_face=np.repeat(np.arange(len(shapes)), num_faces),
        solid_of_face=np.concatenate([s.solids for s in shapes]),
        first_face=np.concatenate([[0], np.cumsum(num_faces)]),
        first_vertex=first_vertex,
    )


def item_poses(scene: ToyScene, time: float) -> Array:
    """Poses (I, 3) of all items in the town frame; fixtures stay where they are modelled."""
    actors = [actor.motion.poses(time) for actor in scene.actors]
    return np.concatenate([np.array(actors).reshape(-1, 3), np.zeros((len(scene.fixtures), 3))])


def place_vectors(vectors: Array, poses: Array) -> Array:
    """Turn local vectors (N, 3) by the yaw of their poses (N, 3)."""
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    x, y = vectors[:, 0], vectors[:, 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y, vectors[:, 2]], -1)


def place_points(points: Array, poses: Array) -> Array:
    """Move local points (N, 3) to the town frame by their poses (N, 3)."""
    placed = place_vectors(points, poses)
    placed[:, :2] += poses[:, :2]
    return placed


def to_local(point: Array, poses: Array) -> Array:
    """One point (3,) of the town frame in the frame of each pose (I, 3): (I, 3)."""
    offset = point[:2] - poses[:, :2]
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    along = cos * offset[:, 0] + sin * offset[:, 1]
    across = -sin * offset[:, 0] + cos * offset[:, 1]
    return np.stack([along, across, np.full(len(poses), point[2])], -1)


def lit_colours(mesh: SceneMesh, faces: Index, normals: Array, light: Light) -> Array:
    """Colours (F, 3) of chosen faces (F,) under a light; normals (F, 3) are in the town frame."""
    facing = np.clip(np.einsum("fk,k->f", normals, light.sun), 0, None)[:, None]
    skyward = 0.72 + 0.28 * normals[:, 2:]
    received = light.ambient * skyward + light.direct * facing
    glow = mesh.glow[faces, None]
    return mesh.colours[faces] * (received * (1 - glow) + 1.15 * glow)


def footprints(mesh: SceneMesh, poses: Array) -> tuple[Array, Array, Array]:
    """Corners (I, 4, 2), axes (I, 2, 2) as rows along and across, and half sizes (I, 2)."""
    lower, upper = mesh.bounds
    half = (upper - lower)[:, :2] / 2
    middle = np.zeros((len(poses), 3))
    middle[:, :2] = (upper + lower)[:, :2] / 2
    centres = poses.copy()
    centres[:, :2] = place_points(middle, poses)[:, :2]
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    axes = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    return footprint_corners(centres, half), axes, half


def paint_ranks(before: NDArray[np.bool_]) -> Index:
    """Ranks (..., N) such that i gets a lower rank than j where ``before`` (..., N, N)[i, j].

    The longest chain of predecessors. Cycles, which disjoint convex things hardly ever form, are
    cut off after N rounds.
    """
    ranks = np.zeros(before.shape[:-1], np.int64)
    for _ in range(before.shape[-1]):
        raised = (before * (ranks[..., :, None] + 1)).max(-2, initial=0)
        if np.array_equal(raised, ranks):
            break
        ranks = raised
    return ranks
