"""The painter: far to near, flat shaded convex polygons over ground and sky, at twice the size.

An id channel is painted with the same polygons, so that masks and pictures agree. Painting at
twice the size and averaging gives smooth edges; ids are read at one of the four sub-pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_backdrop import Backdrop, View, paint_backdrop
from det3d.data.toy_canvas import SUBPIXEL_BITS, fill_convex, to_fixed
from det3d.data.toy_faces import NEAR, OVERSAMPLING, FrontFaces, cut_near, front_faces, project
from det3d.data.toy_mesh import SceneMesh, place_vectors
from det3d.data.toy_rig import yaw_to_matrix
from det3d.data.toy_town import shadow_outline

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Index = NDArray[np.int64]

FIRST_ACTOR_ID = 16  # smaller ids are stuff classes
SHADOW_RANGE = 55.0


@dataclass(frozen=True)
class CameraPicture:
    """One camera image with its truth.

    image (H, W, 3) uint8 BGR; ids (H, W) uint8: stuff class, or ``FIRST_ACTOR_ID`` + k for actor
    ``actors[k]``; visible, whole (K,): pixels of those actors as seen, and if nothing hid them.
    """

    image: Image
    ids: Image
    actors: Index
    visible: Index
    whole: Index


def paint_camera(mesh: SceneMesh, poses: Array, ego: Array, view: View, backdrop: Backdrop,
                 shadows: list[Array], *, labelled: bool = False) -> CameraPicture:  # fmt: skip
    """Paint what one camera sees.

    poses (I, 3) of all items and ego (3,), in the town frame; shadows: as from ``actor_shadows``;
    labelled: also tell stuff classes apart in the ids.
    """
    rotation = view.camera_from_ego @ yaw_to_matrix(ego[2]).T  # camera from town
    eye = yaw_to_matrix(ego[2]) @ view.eye + [ego[0], ego[1], 0]
    shade = _paint_shadows(shadows, poses, rotation, eye, view)
    canvas = paint_backdrop(view, backdrop, ego, shade, labelled=labelled)
    height, width = view.size
    large = (OVERSAMPLING * width, OVERSAMPLING * height)
    canvas = np.asarray(cv2.resize(canvas, large, interpolation=cv2.INTER_NEAREST), np.uint8)
    faces = front_faces(mesh, poses, rotation, eye, view, backdrop.light)
    actors = np.unique(faces.items[faces.items < mesh.num_actors])
    distance = np.linalg.norm(poses[actors, :2] - eye[:2], axis=1)
    actors = actors[np.argsort(distance, kind="stable")][: 256 - FIRST_ACTOR_ID]
    ids = mesh.stuff.copy()
    ids[actors] = FIRST_ACTOR_ID + np.arange(len(actors))
    paints = np.concatenate([faces.colours, ids[faces.items, None]], 1).tolist()
    for outline, paint in zip(faces.outlines, paints, strict=True):
        fill_convex(canvas, outline, paint)
    small = np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    seen = np.ascontiguousarray(canvas[1::2, 1::2, 3])
    visible = np.bincount(seen.ravel(), minlength=256)[FIRST_ACTOR_ID:][: len(actors)]
    whole = _whole_pixels(faces, actors, large)
    return CameraPicture(np.ascontiguousarray(small[..., :3]), seen, actors, visible, whole)


def _whole_pixels(faces: FrontFaces, actors: Index, size: tuple[int, int]) -> Index:
    """Pixels (K,) that each actor covers if painted alone; size: sub-pixels across and down."""
    whole = np.zeros(len(actors), np.int64)
    for slot, actor in enumerate(actors):
        mine = [faces.outlines[k] for k in np.flatnonzero(faces.items == actor)]
        corners = np.concatenate(mine) >> SUBPIXEL_BITS
        # Even corners keep the choice of sub-pixels the same as in the full picture.
        left, top = np.maximum(corners.min(0) - 2, 0) // 2 * 2
        right, bottom = np.minimum(corners.max(0) + 3, size)
        if right <= left or bottom <= top:
            continue
        mask = np.zeros((bottom - top, right - left), np.uint8)
        for outline in mine:
            shifted = outline - (np.array([left, top], np.int32) << SUBPIXEL_BITS)
            fill_convex(mask, shifted, (1,))
        whole[slot] = int(mask[1::2, 1::2].sum())
    return whole


def _paint_shadows(shadows: list[Array], poses: Array, rotation: Array, eye: Array,
                   view: View) -> Image:  # fmt: skip
    """Shadows of near actors on the ground (H, W), 0 to 255."""
    image = np.zeros(view.size, np.uint8)
    offset = poses[: len(shadows), :2] - eye[:2]
    ahead = offset @ rotation[2, :2]
    distance = np.linalg.norm(offset, axis=1)
    actors = np.flatnonzero((distance < SHADOW_RANGE) & (ahead > 0.3 * distance - 8))
    if not len(actors):
        return image
    counts = [len(shadows[k]) for k in actors]
    flat = np.concatenate([shadows[k] for k in actors]) + np.repeat(offset[actors], counts, axis=0)
    points = np.column_stack([flat, np.full(len(flat), -eye[2])]) @ rotation.T
    for part in np.split(points, np.cumsum(counts)[:-1]):
        if part[:, 2].min() < NEAR:
            part = cut_near(part)
        if len(part) > 2:
            fill_convex(image, to_fixed(project(part, view) / OVERSAMPLING), (255,), smooth=True)
    return image


def actor_shadows(mesh: SceneMesh, poses: Array, sun: Array) -> list[Array]:
    """Outlines (k, 2) on the ground of the actors' shadows, relative to where the actors are."""
    outlines = []
    for shape, pose in zip(mesh.shapes[: mesh.num_actors], poses, strict=False):
        turned = place_vectors(shape.vertices, np.broadcast_to(pose, shape.vertices.shape))
        outlines.append(shadow_outline(turned, sun))
    return outlines
