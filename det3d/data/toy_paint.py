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
from det3d.data.toy_faces import OVERSAMPLING, SUBPIXEL_BITS, FrontFaces, front_faces
from det3d.data.toy_faces import cut_near, project
from det3d.data.toy_mesh import SceneMesh, place_points
from det3d.data.toy_rig import yaw_to_matrix
from det3d.data.toy_town import Light, shadow_hulls

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
                 *, labelled: bool = False) -> CameraPicture:  # fmt: skip
    """Paint what one camera sees. poses (I, 3) of all items and ego (3,), in the town frame."""
    rotation = view.camera_from_ego @ yaw_to_matrix(ego[2]).T  # camera from town
    eye = yaw_to_matrix(ego[2]) @ view.eye + [ego[0], ego[1], 0]
    shadows = _paint_shadows(mesh, poses, rotation, eye, view, backdrop.light)
    canvas = paint_backdrop(view, backdrop, ego, shadows, labelled=labelled)
    height, width = view.size
    canvas = cv2.resize(
        canvas, (OVERSAMPLING * width, OVERSAMPLING * height), interpolation=cv2.INTER_NEAREST
    )
    faces = front_faces(mesh, poses, rotation, eye, view, backdrop.light)
    actors = np.unique(faces.items[faces.items < mesh.num_actors])
    distance = np.linalg.norm(poses[actors, :2] - eye[:2], axis=1)
    actors = actors[np.argsort(distance, kind="stable")][: 256 - FIRST_ACTOR_ID]
    ids = mesh.stuff.copy()
    ids[actors] = FIRST_ACTOR_ID + np.arange(len(actors))
    paints = np.concatenate([faces.colours, ids[faces.items, None]], 1).tolist()
    for outline, paint in zip(faces.outlines, paints, strict=True):
        cv2.fillConvexPoly(canvas, outline, paint, cv2.LINE_8, SUBPIXEL_BITS)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    seen = np.ascontiguousarray(canvas[1::2, 1::2, 3])
    visible = np.bincount(seen.ravel(), minlength=256)[FIRST_ACTOR_ID:][: len(actors)]
    whole = _whole_pixels(faces, actors, (OVERSAMPLING * height, OVERSAMPLING * width))
    return CameraPicture(np.ascontiguousarray(small[..., :3]), seen, actors, visible, whole)


def _whole_pixels(faces: FrontFaces, actors: Index, size: tuple[int, int]) -> Index:
    """Pixels (K,) that each actor covers inside the image if it is painted alone."""
    whole = np.zeros(len(actors), np.int64)
    for slot, actor in enumerate(actors):
        mine = [faces.outlines[k] for k in np.flatnonzero(faces.items == actor)]
        corners = np.concatenate(mine) >> SUBPIXEL_BITS
        # Even corners keep the choice of sub-pixels the same as in the full picture.
        left, top = np.maximum(corners.min(0) - 2, 0) // 2 * 2
        right, bottom = np.minimum(corners.max(0) + 3, (size[1], size[0]))
        if right <= left or bottom <= top:
            continue
        mask = np.zeros((bottom - top, right - left), np.uint8)
        for outline in mine:
            shifted = outline - (np.array([left, top], np.int32) << SUBPIXEL_BITS)
            cv2.fillConvexPoly(mask, shifted, 1, cv2.LINE_8, SUBPIXEL_BITS)
        whole[slot] = int(mask[1::2, 1::2].sum())
    return whole


def _paint_shadows(mesh: SceneMesh, poses: Array, rotation: Array, eye: Array, view: View,
                   light: Light) -> Image:  # fmt: skip
    """Shadows of near actors on the ground (H, W), 0 to 255."""
    shadows = np.zeros(view.size, np.uint8)
    offset = poses[: mesh.num_actors, :2] - eye[:2]
    ahead = offset @ rotation[2, :2]
    distance = np.linalg.norm(offset, axis=1)
    near = (distance < SHADOW_RANGE) & (ahead > 0.3 * distance - 8)
    for actor in np.flatnonzero(near):
        shape = mesh.shapes[actor]
        pose = np.broadcast_to(poses[actor], shape.vertices.shape)
        for hull in shadow_hulls(shape, light.sun, place_points(shape.vertices, pose)):
            points = (np.pad(hull, ((0, 0), (0, 1))) - eye) @ rotation.T
            points = cut_near(points)
            if len(points) > 2:
                outline = np.round((project(points, view) / OVERSAMPLING) * 16).astype(np.int32)
                cv2.fillConvexPoly(shadows, outline, 255, cv2.LINE_AA, 4)
    return shadows
