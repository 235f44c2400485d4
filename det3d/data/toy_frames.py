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
from det3d.data.toy_paint import CameraPicture, paint_camera
from det3d.data.toy_records import (
    AnnotationRecord,
    FrameRecord,
    ImageRecord,
    SensorRecord,
    frame_time,
    log_name,
    make_token,
)
from det3d.data.toy_rig import CAMERAS, LIDAR, Sensor
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
    scene: ToyScene
    mesh: SceneMesh
    backdrop: Backdrop
    ground: Ground


@lru_cache(maxsize=1)
def _stage(plan: ScenePlan) -> _Stage:
    scene = build_scene(plan)
    ground = paint_ground(scene.town, scene.light, list(scene.fixtures), plan.rng(4))
    backdrop = make_backdrop(ground, scene.town.area[:2], scene.light, plan.rng(5))
    return _Stage(scene, make_mesh(scene), backdrop, ground)


def render_frames(root: Path, task: FrameTask) -> list[FrameRecord]:
    """Write the files of the task's key frames under ``root``; the first frame adds the map."""
    stage = _stage(task.plan)
    if task.first == 0:
        write_map(root / map_name(task.plan), stage.scene, stage.ground)
    return [_render_frame(root, task, stage, frame) for frame in range(task.first, task.last)]


def map_name(plan: ScenePlan) -> str:
    """File of the map mask of a scene, relative to the database."""
    return f"maps/{make_token(plan.seed, plan.name, 'map')}.png"


def _render_frame(root: Path, task: FrameTask, stage: _Stage, frame: int) -> FrameRecord:
    scene, plan = stage.scene, task.plan
    rng = np.random.default_rng([plan.seed, 9, frame, *plan.name.encode()])
    time = float(scene.times[frame])
    sensors, images = [], []
    pixels = np.zeros((2, len(scene.actors)), np.int64)  # visible, whole
    for camera, view in zip(CAMERAS, make_views(task.image_size), strict=True):
        moment = time + camera.delay
        record = _sensor_record(task, scene, camera, moment, "jpg")
        picture = paint_camera(
            stage.mesh, item_poses(scene, moment), scene.ego.poses(moment), view, stage.backdrop,
            labelled=task.coco,
        )  # fmt: skip
        np.add.at(pixels, (slice(None), picture.actors), np.stack([picture.visible, picture.whole]))
        _write_image(root / record.filename, picture.image, rng)
        sensors.append(record)
        if task.coco:
            images.append(_write_truth(root, record.filename, picture, scene))
    record = _sensor_record(task, scene, LIDAR, time, "pcd.bin")
    counts = _write_sweep(root / record.filename, stage, time, rng)
    annotations = _annotations(scene, time, counts, pixels)
    return FrameRecord(
        plan, task.scene, frame, (*sensors, record), tuple(annotations), tuple(images)
    )


def _sensor_record(task: FrameTask, scene: ToyScene, sensor: Sensor, moment: float,
                   suffix: str) -> SensorRecord:  # fmt: skip
    timestamp = frame_time(task.scene, moment)
    name = f"samples/{sensor.channel}/{log_name(task.plan)}__{sensor.channel}__{timestamp}.{suffix}"
    x, y, yaw = scene.to_global(scene.ego.poses(moment))
    return SensorRecord(sensor.channel, name, timestamp, (float(x), float(y), float(yaw)))


def _write_image(path: Path, image: NDArray[np.uint8], rng: np.random.Generator) -> None:
    grain = (GRAIN * rng.standard_normal(image.shape[:2], np.float32)).astype(np.int16)
    noisy = cv2.add(image, cv2.merge([grain, grain, grain]), dtype=cv2.CV_8U)
    _write(path, cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())


def _write_truth(root: Path, filename: str, picture: CameraPicture, scene: ToyScene) -> ImageRecord:
    names = [scene.actors[actor].name for actor in picture.actors]
    record = describe_image(filename, picture.ids, names)
    write_panoptic(root / "coco" / panoptic_name(filename), picture.ids, record)
    return record


def _write_sweep(path: Path, stage: _Stage, time: float, rng: np.random.Generator) -> list[int]:
    """Write the lidar file; return the points in the box of every actor."""
    ego, poses = stage.scene.ego.poses(time), item_poses(stage.scene, time)
    sweep = cast_sweep(stage.mesh, poses, ego, rng)
    _write(path, sweep_file(sweep, ego, stage.mesh, rng))
    return [
        count_points(sweep, actor.shape, poses[k], float(ego[2]))
        for k, actor in enumerate(stage.scene.actors)
    ]


def _annotations(scene: ToyScene, time: float, counts: list[int], pixels: NDArray[np.int64]
                 ) -> list[AnnotationRecord]:  # fmt: skip
    """Annotations of all actors within range of the ego at the time of the key frame."""
    ego = scene.ego.poses(time)
    records = []
    for k, actor in enumerate(scene.actors):
        pose = actor.motion.poses(time)
        if np.hypot(*(pose[:2] - ego[:2])) > ANNOTATION_RANGE:
            continue
        x, y, yaw = scene.to_global(pose)
        share = pixels[0, k] / max(pixels[1, k], 1)
        length, width, height = actor.size
        records.append(
            AnnotationRecord(
                actor=k,
                category=actor.category,
                pose=(float(x), float(y), actor.centre_height, float(yaw)),
                size=(float(length), float(width), float(height)),
                attribute=actor.attribute(time),
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
    mask = cv2.warpAffine(walkable, map_from_raster, (int(width), int(height)), flags=cv2.INTER_NEAREST)
    _write(path, cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
