"""Renders key frames of a scene to files and reports what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_backdrop import Backdrop, make_backdrop, make_views
from det3d.data.toy_coco import describe_image, panoptic_name, write_panoptic
from det3d.data.toy_lidar import cast_sweep, count_points, sweep_file
from det3d.data.toy_mesh import SceneMesh, item_poses, make_mesh
from det3d.data.toy_paint import CameraPicture, actor_shadows, paint_camera
from det3d.data.toy_records import (
    AnnotationRecord,
    FrameRecord,
    ImageRecord,
    SensorRecord,
    frame_time,
    log_name,
    make_token,
)
from det3d.data.toy_rig import LIDAR_CHANNEL, SENSORS
from det3d.data.toy_scene import ScenePlan, ToyScene, build_scene
from det3d.data.toy_town import PAVEMENT, RESOLUTION, ROAD, Ground, paint_ground
from det3d.data.toy_traffic import ANNOTATION_RANGE

Array = NDArray[np.float64]

JPEG_QUALITY = 92
GRAIN = 2.0  # standard deviation of the image noise, in grey levels
VISIBILITY_BOUNDS = (0.4, 0.6, 0.8)


@dataclass(frozen=True)
class FrameTask:
    """Key frames [first, last) of one scene; ``scene`` counts over all splits."""

    plan: ScenePlan
    scene: int
    first: int
    last: int
    image_size: tuple[int, int]
    coco: bool


@dataclass(frozen=True)
class _Stage:
    """A scene made ready: poses of all items (F, S, I, 3) and of the ego (F, S, 3) in the town.

    F key frames, S sensors in rig order, the lidar last; moments (F, S) in seconds.
    """

    scene: ToyScene
    mesh: SceneMesh
    backdrop: Backdrop
    ground: Ground
    grain: NDArray[np.int16]
    moments: Array
    poses: Array
    ego: Array


@lru_cache(maxsize=1)
def _stage(plan: ScenePlan, image_size: tuple[int, int]) -> _Stage:
    scene = build_scene(plan)
    ground = paint_ground(scene.town, scene.light, list(scene.fixtures), plan.rng(4))
    backdrop = make_backdrop(ground, scene.town.area[:2], scene.light, plan.rng(5))
    moments = scene.times[:, None] + np.array([sensor.delay for sensor in SENSORS])
    height, width = image_size
    grain = GRAIN * plan.rng(6).standard_normal((height + 64, width + 64, 1))
    return _Stage(
        scene=scene,
        mesh=make_mesh(scene),
        backdrop=backdrop,
        ground=ground,
        grain=np.repeat(np.round(grain).astype(np.int16), 3, axis=2),
        moments=moments,
        poses=item_poses(scene, moments),
        ego=scene.ego.poses(moments),
    )


def render_frames(root: Path, task: FrameTask) -> list[FrameRecord]:
    """Write the files of the task's key frames under ``root``; the first frame adds the map."""
    stage = _stage(task.plan, task.image_size)
    if task.first == 0:
        write_map(root / map_name(task.plan), stage.scene, stage.ground)
    return [_render_frame(root, task, stage, frame) for frame in range(task.first, task.last)]


def map_name(plan: ScenePlan) -> str:
    """File of the map mask of a scene, relative to the database."""
    return f"maps/{make_token(plan.seed, plan.name, 'map')}.png"


def _render_frame(root: Path, task: FrameTask, stage: _Stage, frame: int) -> FrameRecord:
    scene, plan = stage.scene, task.plan
    rng = np.random.default_rng([plan.seed, 9, frame, *plan.name.encode()])
    shadows = actor_shadows(stage.mesh, stage.poses[frame, -1], scene.light.sun)
    records = tuple(_sensor_record(task, stage, frame, slot) for slot in range(len(SENSORS)))
    images = []
    pixels = np.zeros((2, len(scene.actors)), np.int64)  # visible, whole
    for slot, view in enumerate(make_views(task.image_size)):
        picture = paint_camera(
            stage.mesh, stage.poses[frame, slot], stage.ego[frame, slot], view, stage.backdrop,
            shadows, labelled=task.coco,
        )  # fmt: skip
        pixels[0, picture.actors] += picture.visible
        pixels[1, picture.actors] += picture.whole
        _write_image(root / records[slot].filename, picture.image, stage.grain, rng)
        if task.coco:
            images.append(_write_truth(root, records[slot].filename, picture, scene))
    counts = _write_sweep(root / records[-1].filename, stage, frame, rng)
    annotations = _annotations(stage, frame, counts, pixels)
    return FrameRecord(plan, task.scene, frame, records, tuple(annotations), tuple(images))


def _sensor_record(task: FrameTask, stage: _Stage, frame: int, slot: int) -> SensorRecord:
    channel = SENSORS[slot].channel
    timestamp = frame_time(task.scene, stage.moments[frame, slot])
    suffix = "pcd.bin" if channel == LIDAR_CHANNEL else "jpg"
    name = f"samples/{channel}/{log_name(task.plan)}__{channel}__{timestamp}.{suffix}"
    x, y, yaw = stage.scene.to_global(stage.ego[frame, slot]).tolist()
    return SensorRecord(channel, name, timestamp, (x, y, yaw))


def _write_image(path: Path, image: NDArray[np.uint8], grain: NDArray[np.int16],
                 rng: np.random.Generator) -> None:  # fmt: skip
    """Write a JPEG with a random cut of the scene's grain."""
    top, left = rng.integers(0, 64, 2)
    height, width = image.shape[:2]
    cut = grain[top : top + height, left : left + width]
    noisy = cv2.add(image, cut, dtype=cv2.CV_8U)
    _write(path, cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())


def _write_truth(root: Path, filename: str, picture: CameraPicture, scene: ToyScene) -> ImageRecord:
    names = [scene.actors[actor].name for actor in picture.actors]
    record = describe_image(filename, picture.ids, names)
    write_panoptic(root / "coco" / panoptic_name(filename), picture.ids, record)
    return record


def _write_sweep(path: Path, stage: _Stage, frame: int, rng: np.random.Generator) -> list[int]:
    """Write the lidar file; return the points in the box of every actor."""
    ego, poses = stage.ego[frame, -1], stage.poses[frame, -1]
    sweep = cast_sweep(stage.mesh, poses, ego, rng)
    _write(path, sweep_file(sweep, ego, stage.mesh, rng))
    return count_points(sweep, stage.mesh, poses)


def _annotations(stage: _Stage, frame: int, counts: list[int], pixels: NDArray[np.int64]
                 ) -> list[AnnotationRecord]:  # fmt: skip
    """Annotations of all actors within range of the ego at the time of the key frame."""
    ego, poses = stage.ego[frame, -1], stage.poses[frame, -1]
    placed = stage.scene.to_global(poses)
    records = []
    for k, actor in enumerate(stage.scene.actors):
        if np.hypot(*(poses[k, :2] - ego[:2])) > ANNOTATION_RANGE:
            continue
        x, y, yaw = placed[k].tolist()
        share = pixels[0, k] / max(pixels[1, k], 1)
        length, width, height = actor.size.tolist()
        records.append(
            AnnotationRecord(
                actor=k,
                category=actor.category,
                pose=(x, y, actor.centre_height, yaw),
                size=(length, width, height),
                attribute=actor.attribute(stage.moments[frame, -1]),
                num_lidar_points=counts[k],
                visibility=1 + int(np.searchsorted(VISIBILITY_BOUNDS, share)),
            )
        )
    return records


def write_map(path: Path, scene: ToyScene, ground: Ground) -> None:
    """Write the mask of streets and sidewalks in the global frame, 0.1 m a pixel, y upwards."""
    walkable = np.isin(ground.labels, (ROAD, PAVEMENT)).astype(np.uint8) * 255
    x0, y0, x1, y1 = scene.town.area
    corners = np.array([(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0)])
    width, height = np.ceil(scene.to_global(corners)[:, :2].max(0) / RESOLUTION).astype(int) + 100
    x, y, yaw = scene.global_from_town
    cos, sin = np.cos(yaw), np.sin(yaw)
    east = x + cos * x0 - sin * y0
    north = y + sin * x0 + cos * y0
    map_from_raster = np.array([
        [cos, -sin, east / RESOLUTION], [-sin, -cos, height - north / RESOLUTION],
    ])  # fmt: skip
    mask = cv2.warpAffine(
        walkable, map_from_raster, (int(width), int(height)), flags=cv2.INTER_NEAREST
    )
    _write(path, cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
