"""From a posed scene to the polygons that one camera sees, projected, lit and in paint order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_backdrop import View
from det3d.data.toy_mesh import SceneMesh, footprints, lit_colours, place_points, place_vectors, to_local
from det3d.data.toy_order import rank_items, rank_solids
from det3d.data.toy_town import Light

Array = NDArray[np.float64]
Index = NDArray[np.int64]

OVERSAMPLING = 2
SUBPIXEL_BITS = 4
NEAR = 0.2  # metres; polygons are cut there
DETAIL_RANGE = 75.0  # metres beyond which windows and the like are not painted


@dataclass(frozen=True)
class FrontFaces:
    """Faces towards the eye, far ones first.

    items (F,); outlines: F polygons (k, 2) int32 in fractions of sub-pixels; colours (F, 3) BGR
    in [0, 255].
    """

    items: Index
    outlines: list[NDArray[np.int32]]
    colours: Array


def front_faces(mesh: SceneMesh, poses: Array, rotation: Array, eye: Array, view: View,
                light: Light) -> FrontFaces:  # fmt: skip
    """Cull, project, order and colour. rotation (3, 3): camera from town; eye (3,) in the town."""
    eyes = to_local(eye, poses)
    kept = _facing(mesh, poses, rotation, eye, eyes, view)
    items = mesh.item_of_face[kept]
    corners = mesh.vertices[mesh.faces[kept]]  # (F, 8, 3)
    placed = place_points(corners.reshape(-1, 3), np.repeat(poses[items], corners.shape[1], 0))
    points = ((placed - eye) @ rotation.T).reshape(corners.shape)
    pixels = project(points, view)
    bounds = _image_bounds(points, pixels)
    size = np.array(view.size[::-1]) * OVERSAMPLING
    inside = (points[..., 2] > NEAR).any(1) & (bounds[0] < size).all(1) & (bounds[1] > 0).all(1)
    inside &= ((bounds[1] - bounds[0]) > 0.4).any(1)
    bounds = bounds[:, inside]
    kept, items, points, pixels = kept[inside], items[inside], points[inside], pixels[inside]
    order = _paint_order(mesh, poses, eye, eyes, kept, bounds)
    kept, items, points, pixels = kept[order], items[order], points[order], pixels[order]
    colours = _colours(mesh, kept, poses[items], points, light)
    return FrontFaces(items, _outlines(points, pixels, mesh.corners[kept], view), colours)


def project(points: Array, view: View) -> Array:
    """Sub-pixel coordinates (..., 2) of camera points (..., 3), whole numbers at their centres."""
    depth = np.maximum(points[..., 2:], NEAR)
    k = view.intrinsics
    focal, centre = np.array([k[0, 0], k[1, 1]]), k[:2, 2]
    return OVERSAMPLING * (points[..., :2] / depth * focal + centre) - 0.5


def cut_near(points: Array) -> Array:
    """The part (k, 3) of a polygon in camera coordinates beyond ``NEAR``; maybe empty."""
    following = np.roll(points, -1, axis=0)
    kept = []
    for a, b in zip(points, following, strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * (NEAR - a[2]) / (b[2] - a[2]))
    return np.array(kept).reshape(-1, 3)


def _facing(mesh: SceneMesh, poses: Array, rotation: Array, eye: Array, eyes: Array,
            view: View) -> Index:  # fmt: skip
    """Faces (F,) of items inside the view that turn towards the eye; no details from afar."""
    lower, upper = mesh.bounds
    middle = place_points((lower + upper) / 2, poses) - eye
    radius = np.linalg.norm(upper - lower, axis=1) / 2
    in_view = _sphere_in_view(middle @ rotation.T, radius, view)
    far = np.linalg.norm(middle, axis=1) - radius > DETAIL_RANGE
    item = mesh.item_of_face
    kept = np.flatnonzero(in_view[item] & ~(mesh.details & far[item]))
    height = np.einsum("fk,fk->f", mesh.normals[kept], eyes[item[kept]])
    return kept[height > mesh.offsets[kept]]


def _sphere_in_view(middle: Array, radius: Array, view: View) -> NDArray[np.bool_]:
    """Tell which spheres, middle (I, 3) in the camera frame, may touch the image."""
    k = view.intrinsics
    height, width = view.size
    left, right = -k[0, 2] / k[0, 0], (width - k[0, 2]) / k[0, 0]
    top, bottom = -k[1, 2] / k[1, 1], (height - k[1, 2]) / k[1, 1]
    sides = np.array([(1, 0, -left), (-1, 0, right), (0, 1, -top), (0, -1, bottom), (0, 0, 1)])
    sides /= np.linalg.norm(sides, axis=1, keepdims=True)
    return (middle @ sides.T > -radius[:, None]).all(1)


def _image_bounds(points: Array, pixels: Array) -> Array:
    """Least and greatest sub-pixels (2, F, 2); everything for faces that pass beside the eye."""
    bounds = np.stack([pixels.min(1), pixels.max(1)])
    beside = (points[..., 2] < NEAR).any(1)
    bounds[0, beside], bounds[1, beside] = -1e6, 1e6
    return bounds


def _paint_order(mesh: SceneMesh, poses: Array, eye: Array, eyes: Array, faces: Index,
                 bounds: Array) -> Index:  # fmt: skip
    """Order of faces (F,): by item, then by solid, details after their solid's faces."""
    if not len(faces):
        return np.zeros(0, np.int64)
    items, first, slots = np.unique(mesh.item_of_face[faces], return_index=True, return_inverse=True)
    lowest = np.minimum.reduceat(bounds[0], first)
    highest = np.maximum.reduceat(bounds[1], first)
    related = (lowest[:, None] <= highest[None]).all(-1)
    related &= related.T
    corners, axes, half = footprints(mesh, poses)
    lower, upper = mesh.bounds
    heights = np.stack([lower[items, 2], upper[items, 2]], -1)
    ranks = rank_items(corners[items], axes[items], half[items], heights, eye, related)
    solid_lower, solid_upper = mesh.solid_bounds
    solids = rank_solids(solid_lower[items], solid_upper[items], eyes[items])
    solid = mesh.solid_of_face[faces]
    distance = -np.linalg.norm(poses[items, :2] - eye[:2], axis=1)
    keys = (mesh.details[faces], solid, solids[slots, solid], slots, distance[slots], ranks[slots])
    return np.lexsort(keys)


def _colours(mesh: SceneMesh, faces: Index, poses: Array, points: Array, light: Light) -> Array:
    """Colours (F, 3) in [0, 255] after light and haze."""
    normals = place_vectors(mesh.normals[faces], poses)
    lit = lit_colours(mesh, faces, normals, light)
    distance = np.linalg.norm(points.mean(1), axis=-1)
    clear = np.exp(-distance / light.haze)[:, None]
    return np.clip(255 * (lit * clear + light.horizon * (1 - clear)), 0, 255)


def _outlines(points: Array, pixels: Array, corners: Index, view: View) -> list[NDArray[np.int32]]:
    """Polygons in fixed-point sub-pixels, cut at the near plane where they pass it."""
    fixed = np.round(pixels * 2**SUBPIXEL_BITS).astype(np.int32)
    counts = corners.tolist()
    outlines = [polygon[:count] for polygon, count in zip(fixed, counts, strict=True)]
    for face in np.flatnonzero((points[..., 2] < NEAR).any(1)):
        cut = cut_near(points[face, : counts[face]])
        outlines[face] = np.round(project(cut, view) * 2**SUBPIXEL_BITS).astype(np.int32)
    return outlines
