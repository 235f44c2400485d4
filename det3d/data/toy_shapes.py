"""Objects as assemblies of convex solids with painted details, ready for painting and ray casting.

Local frame: x forward, y left, z up, metres; colours are BGR in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Colour = tuple[float, float, float]

MAX_CORNERS = 8  # of one face
GROUND_CLEARANCE = 0.02
# Annotated boxes are this much larger on every side, so that no lidar point on a surface, written
# as float32, falls on the border of a box.
BOX_MARGIN = 0.01
FRONT, LEFT, REAR, RIGHT = range(4)  # side faces of ``box``; ``TOP`` is its lid
TOP = 4
DARK: Colour = (0.05, 0.05, 0.05)
GLASS: Colour = (0.20, 0.16, 0.13)


@dataclass(frozen=True)
class Shape:
    """A rigid object: F faces over N vertices, grouped in P convex solids.

    vertices (N, 3); faces (F, 8) int: vertices counter-clockwise seen from outside, padded by
    repeating the last; corners (F,) int: how many are real; normals (F, 3); offsets (F,): plane
    normal . point = offset; colours (F, 3); glow (F,): own light in [0, 1]; solids (F,) int;
    details (F,) bool: True for paint on a solid, which is no surface of its own;
    lower, upper (P, 3): bounds of each solid, details included.
    """

    vertices: Array
    faces: NDArray[np.int64]
    corners: NDArray[np.int64]
    normals: Array
    offsets: Array
    colours: Array
    glow: Array
    solids: NDArray[np.int64]
    details: NDArray[np.bool_]
    lower: Array
    upper: Array

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Lowest and highest corner (3,) of everything."""
        return self.vertices.min(0), self.vertices.max(0)

    @property
    def box_size(self) -> Array:
        """Length, width, height (3,) of the annotated box, margin included."""
        lower, upper = self.bounds
        return upper - lower + 2 * BOX_MARGIN


class ShapeBuilder:
    """Collects solids and details, then centres the whole on its bounding box."""

    def __init__(self) -> None:
        self._points: list[Array] = []
        self._faces: list[tuple[Array, Colour, float, int, bool]] = []
        self._num_solids = 0
        self._quads: list[Array] = []

    def solid(self, first: ArrayLike, second: ArrayLike, colour: Colour,
              cap: Colour | None = None) -> ShapeBuilder:  # fmt: skip
        """Add the convex hull of two rings (n, 3) with matching corners; ``cap`` paints the ends."""
        rings = np.stack([np.asarray(first, float), np.asarray(second, float)])
        following = np.roll(rings, -1, axis=1)
        self._quads = list(np.stack([rings[0], following[0], following[1], rings[1]], axis=1))
        middle = rings.mean((0, 1))
        cap = cap or colour
        for points, paint in [*((q, colour) for q in self._quads), (rings[0], cap), (rings[1], cap)]:
            self._faces.append((_facing_out(points, middle), paint, 0.0, self._num_solids, False))
        self._quads.append(rings[1])
        self._num_solids += 1
        return self

    def box(self, lower: Sequence[float], upper: Sequence[float], colour: Colour, *,
            taper: tuple[float, float, float] = (0, 0, 0), cap: Colour | None = None,
            ) -> ShapeBuilder:  # fmt: skip
        """Add a box whose top is shorter by ``taper``: at the front, the rear and each side."""
        front, rear, side = taper
        bottom = _rectangle(lower[0], lower[1], upper[0], upper[1], lower[2])
        top = _rectangle(lower[0] + rear, lower[1] + side, upper[0] - front, upper[1] - side, upper[2])
        return self.solid(bottom, top, colour, cap)

    def prism(self, centre: Sequence[float], radius: float, top_radius: float, height: float,
              colour: Colour, *, sides: int = 8, stretch: float = 1.0) -> ShapeBuilder:  # fmt: skip
        """Add an upright round frustum standing on ``centre``; ``stretch`` widens it along x."""
        angles = (np.arange(sides) + 0.5) * 2 * np.pi / sides
        circle = np.stack([stretch * np.cos(angles), np.sin(angles), np.zeros(sides)], -1)
        base = np.asarray(centre, float)
        return self.solid(base + radius * circle, base + top_radius * circle + (0, 0, height), colour)

    def disc(self, centre: Sequence[float], radius: float, width: float, colour: Colour,
             hub: Colour | None = None) -> ShapeBuilder:  # fmt: skip
        """Add an upright wheel with its axle along y; ``hub`` paints the inside on both sides."""
        angles = (np.arange(MAX_CORNERS) + 0.5) * 2 * np.pi / MAX_CORNERS
        circle = np.stack([np.cos(angles), np.zeros(MAX_CORNERS), np.sin(angles)], -1)
        base, half = np.asarray(centre, float), np.array([0, width / 2, 0])
        self.solid(base + radius * circle - half, base + radius * circle + half, colour)
        if hub is not None:
            inner = base + 0.68 * radius * circle
            self.detail((inner + half)[::-1], hub)
            self.detail(inner - half, hub)
        return self

    def beam(self, start: Sequence[float], end: Sequence[float], thickness: float, width: float,
             colour: Colour) -> ShapeBuilder:  # fmt: skip
        """Add a straight bar in a plane of constant y, ``width`` across, between two points."""
        ends = np.array([start, end], float)
        along = ends[1] - ends[0]
        across = np.array([-along[2], 0.0, along[0]])
        across *= thickness / 2 / max(np.linalg.norm(across), 1e-9)
        half = np.array([0, width / 2, 0])
        offsets = np.stack([across + half, across - half, -across - half, -across + half])
        return self.solid(ends[0] + offsets, ends[1] + offsets, colour)

    def panel(self, side: int, left: float, right: float, bottom: float, top: float,
              colour: Colour, glow: float = 0.0) -> ShapeBuilder:  # fmt: skip
        """Paint a part of one face of the last box, in fractions of that face seen from outside."""
        a, b, c, d = self._quads[side]
        corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
        points = [(1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c) for u, v in corners]
        return self.detail(np.array(points), colour, glow)

    def wheels(self, stations: Sequence[float], radius: float, half_width: float) -> ShapeBuilder:
        """Paint wheels on both sides of the last solid at the given x; they stand on the ground."""
        angles = (np.arange(MAX_CORNERS) + 0.5) * 2 * np.pi / MAX_CORNERS
        circle = np.stack([np.cos(angles), np.zeros(MAX_CORNERS), np.sin(angles)], -1)
        for x in stations:
            for y in (-half_width, half_width):
                ring = circle if y < 0 else circle[::-1]
                centre = np.array([x, y, radius])
                self.detail(centre + radius * ring, DARK)
                self.detail(centre + 0.55 * radius * ring, (0.45, 0.45, 0.45))
        return self

    def detail(self, points: Array, colour: Colour, glow: float = 0.0) -> ShapeBuilder:
        """Paint a polygon (k, 3), counter-clockwise seen from outside, on the last solid."""
        self._faces.append((points, colour, glow, self._num_solids - 1, True))
        return self

    def build(self, *, centred: bool = True) -> Shape:
        """The finished shape; centred means around x = y = 0 and just above the ground."""
        points, colours, glow, solids, details = zip(*self._faces, strict=True)
        corners = np.array([len(p) for p in points])
        starts = np.cumsum(corners) - corners
        vertices = np.concatenate(points)
        if centred:
            lower, upper = vertices.min(0), vertices.max(0)
            vertices = vertices - [*(lower + upper)[:2] / 2, lower[2] - GROUND_CLEARANCE]
        last = np.minimum(np.arange(MAX_CORNERS), corners[:, None] - 1)
        faces = starts[:, None] + last
        normals = _normals(vertices[faces])
        solid_of_vertex = np.repeat(solids, corners)
        members = [vertices[solid_of_vertex == s] for s in range(self._num_solids)]
        return Shape(
            vertices=vertices,
            faces=faces,
            corners=corners,
            normals=normals,
            offsets=np.einsum("fk,fk->f", normals, vertices[faces[:, 0]]),
            colours=np.array(colours, float),
            glow=np.array(glow, float),
            solids=np.array(solids),
            details=np.array(details),
            lower=np.stack([m.min(0) for m in members]),
            upper=np.stack([m.max(0) for m in members]),
        )


def _rectangle(x0: float, y0: float, x1: float, y1: float, z: float) -> Array:
    """Corners (4, 3) from front right counter-clockwise, so that edges are front, left, ..."""
    return np.array([(x1, y0, z), (x1, y1, z), (x0, y1, z), (x0, y0, z)])


def _facing_out(points: Array, middle: Array) -> Array:
    """The polygon (k, 3), reversed if its normal points towards ``middle``."""
    normal = _normals(points[None])[0]
    return points if normal @ (points.mean(0) - middle) >= 0 else points[::-1]


def _normals(polygons: Array) -> Array:
    """Unit normals (F, 3) of polygons (F, k, 3) by Newell's sum; repeated corners do not count."""
    following = np.roll(polygons, -1, axis=1)
    normals = np.cross(polygons, following).sum(1)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
