"""A miniature nuScenes database: valid for the devkit, small enough for every test.

Poses, calibration and motion are general (tilted lidar, pitching ego vehicle, each camera with its
own time and pose), so that a wrong transform shows. Geometry comes from pyquaternion, not from us.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pyquaternion import Quaternion

CAMERA_YAWS = {  # degrees from straight ahead, counter-clockwise
    "CAM_FRONT": 0,
    "CAM_FRONT_RIGHT": -55,
    "CAM_FRONT_LEFT": 55,
    "CAM_BACK": 180,
    "CAM_BACK_LEFT": 110,
    "CAM_BACK_RIGHT": -110,
}
CATEGORIES = (  # category, attribute, speed in m/s, (width, length, height)
    ("vehicle.car", "vehicle.moving", 5.0, (1.9, 4.6, 1.7)),
    ("vehicle.truck", "vehicle.parked", 0.0, (2.5, 7.0, 2.9)),
    ("vehicle.construction", "vehicle.parked", 0.0, (2.8, 6.5, 3.2)),
    ("vehicle.bus.rigid", "vehicle.stopped", 0.0, (2.9, 11.0, 3.5)),
    ("vehicle.trailer", "vehicle.parked", 0.0, (2.8, 10.0, 3.7)),
    ("movable_object.barrier", "", 0.0, (2.5, 0.5, 1.0)),
    ("vehicle.motorcycle", "cycle.with_rider", 4.0, (0.8, 2.1, 1.5)),
    ("vehicle.bicycle", "cycle.without_rider", 0.0, (0.6, 1.7, 1.3)),
    ("human.pedestrian.adult", "pedestrian.moving", 1.3, (0.7, 0.7, 1.8)),
    ("movable_object.trafficcone", "", 0.0, (0.4, 0.4, 1.0)),
    ("static_object.bicycle_rack", "", 0.0, (2.0, 6.0, 1.4)),  # no detection class
)
SCENES = {"scene-0061": 3, "scene-0553": 2, "scene-0103": 2}  # two of mini_train, one of mini_val
START = 1_532_402_900_000_000
KEY_FRAME_PERIOD = 500_000  # microseconds


def write_tiny_nuscenes(
    root: Path,
    *,
    version: str = "v1.0-mini",
    scenes: Mapping[str, int] = SCENES,
    image_size: tuple[int, int] = (45, 80),
    missing_cameras: Mapping[int, tuple[str, ...]] | None = None,
    sweeps: int = 0,
) -> Path:
    """Write the database to ``root`` and return it.

    ``scenes`` maps names to numbers of key frames, ``missing_cameras`` the number of a sample
    (counted over all scenes) to the channels it lacks; ``sweeps`` images of every camera precede
    each key frame, also the first one of a scene.
    """
    writer = TinyDatabase(root, image_size, dict(missing_cameras or {}), sweeps)
    for number, (name, length) in enumerate(scenes.items()):
        writer.add_scene(name, number, length)
    writer.write(version)
    return root


def token(*parts: Any) -> str:
    """A token that is a function of its parts."""
    return hashlib.md5("/".join(map(str, parts)).encode()).hexdigest()


class TinyDatabase:
    """Collects the rows of the 13 tables and writes images and point clouds on the way."""

    def __init__(
        self,
        root: Path,
        image_size: tuple[int, int],
        missing: dict[int, tuple[str, ...]],
        sweeps: int,
    ) -> None:
        self.root = root
        self.sweeps = sweeps
        self.image_size = image_size
        self.missing = missing
        self.samples = 0
        self.random = np.random.default_rng(0)
        self.tables: dict[str, list[dict[str, Any]]] = {
            "visibility": [
                {"token": str(level), "level": f"v{level}", "description": ""}
                for level in range(1, 5)
            ],
            "attribute": [
                {"token": token("attribute", name), "name": name, "description": ""}
                for name in sorted({row[1] for row in CATEGORIES} - {""})
            ],
            "category": [
                {"token": token("category", row[0]), "name": row[0], "description": ""}
                for row in CATEGORIES
            ],
            "log": [
                {
                    "token": token("log"),
                    "logfile": "tiny",
                    "vehicle": "n000",
                    "date_captured": "2018-07-24",
                    "location": "singapore-onenorth",
                }
            ],
            "map": [
                {
                    "category": "semantic_prior",
                    "token": token("map"),
                    "filename": "maps/tiny.png",
                    "log_tokens": [token("log")],
                }
            ],
            **{
                name: []
                for name in (
                    "instance", "sensor", "calibrated_sensor", "ego_pose",
                    "scene", "sample", "sample_data", "sample_annotation",
                )
            },
        }  # fmt: skip
        (root / "maps").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "maps/tiny.png")
        for channel in ("LIDAR_TOP", *CAMERA_YAWS):
            self.add_sensor(channel)

    def add_sensor(self, channel: str) -> None:
        height, width = self.image_size
        camera = channel in CAMERA_YAWS
        if camera:
            yaw = Quaternion(axis=(0, 0, 1), degrees=CAMERA_YAWS[channel] + 0.3)
            rotation = yaw * Quaternion(0.5, -0.5, 0.5, -0.5) * tilt(0.7, -0.4)
            heading = math.radians(CAMERA_YAWS[channel])
            translation = [1 + 0.6 * math.cos(heading), 0.5 * math.sin(heading), 1.5]
            focal = 0.8 * width
            intrinsic = [[focal, 0, width / 2 + 0.7], [0, focal, height / 2 - 0.4], [0, 0, 1]]
        else:
            rotation = Quaternion(axis=(0, 0, 1), degrees=-89.9) * tilt(0.5, 1.1)
            translation, intrinsic = [0.94, 0.02, 1.84], []
        modality = "camera" if camera else "lidar"
        self.tables["sensor"].append(
            {"token": token("sensor", channel), "channel": channel, "modality": modality}
        )
        self.tables["calibrated_sensor"].append(
            {
                "token": token("calibration", channel),
                "sensor_token": token("sensor", channel),
                "translation": list(translation),
                "rotation": rotation.elements.tolist(),
                "camera_intrinsic": intrinsic,
            }
        )

    def add_scene(self, name: str, number: int, length: int) -> None:
        keys = [token("sample", name, i) for i in range(length)]
        start = START + number * 60_000_000
        self.tables["scene"].append(
            {
                "token": token("scene", name),
                "log_token": token("log"),
                "nbr_samples": length,
                "first_sample_token": keys[0],
                "last_sample_token": keys[-1],
                "name": name,
                "description": "",
            }
        )
        for i, key in enumerate(keys):
            time = start + i * KEY_FRAME_PERIOD
            self.tables["sample"].append(
                {
                    "token": key,
                    "timestamp": time,
                    "prev": keys[i - 1] if i else "",
                    "next": keys[i + 1] if i + 1 < length else "",
                    "scene_token": token("scene", name),
                }
            )
            missing = self.missing.get(self.samples, ())
            for order, channel in enumerate(("LIDAR_TOP", *CAMERA_YAWS)):
                if channel not in missing:
                    self.add_data(name, i, length, key, channel, time - 7000 * order)
                    self.add_sweeps(name, i, key, channel, time - 7000 * order)
            self.samples += 1
        for kind, row in enumerate(CATEGORIES):
            self.add_instance(name, keys, kind, row)

    def add_data(self, scene: str, i: int, length: int, key: str, channel: str, time: int) -> None:
        own, height, width = token("data", scene, channel, i), *self.image_size
        camera = channel != "LIDAR_TOP"
        suffix = "jpg" if camera else "pcd.bin"
        file = f"samples/{channel}/{scene}__{channel}__{time}.{suffix}"
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        if camera:
            ramp = np.linspace(0, 255, width)[None, :, None] * self.random.uniform(0.3, 1, 3)
            pixels = np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(self.root / file, quality=95)
        else:
            points = self.random.normal(0, 10, (50, 5)).astype(np.float32)
            points.tofile(self.root / file)
        seconds = (time - START) * 1e-6
        turn = Quaternion(axis=(0, 0, 1), radians=0.4 + 0.1 * seconds) * tilt(0.8, -1.2)
        self.tables["ego_pose"].append(
            {
                "token": own,
                "timestamp": time,
                "rotation": turn.elements.tolist(),
                "translation": [400 + 6 * seconds, 1100 + 2 * seconds, 0.1 * seconds],
            }
        )
        self.tables["sample_data"].append(
            {
                "token": own,
                "sample_token": key,
                "ego_pose_token": own,
                "calibrated_sensor_token": token("calibration", channel),
                "timestamp": time,
                "fileformat": "jpg" if camera else "pcd",
                "is_key_frame": True,
                "height": height if camera else 0,
                "width": width if camera else 0,
                "filename": file,
                "prev": token("data", scene, channel, i - 1) if i else "",
                "next": token("data", scene, channel, i + 1) if i + 1 < length else "",
            }
        )

    def add_sweeps(self, scene: str, i: int, key: str, channel: str, time: int) -> None:
        """Images between this key frame and the one before, linked behind each other."""
        own = self.tables["sample_data"][-1]
        step = KEY_FRAME_PERIOD / (self.sweeps + 1)
        for number in range(1, self.sweeps + 1 if channel in CAMERA_YAWS else 1):
            earlier = time - round(number * step)
            self.add_data(scene, i, i + 1, key, channel, earlier)
            name = token("sweep", scene, channel, i, number)
            sweep, later = self.tables["sample_data"][-1], self.tables["sample_data"][-2]
            file = sweep["filename"].replace("samples/", "sweeps/")
            (self.root / file).parent.mkdir(parents=True, exist_ok=True)
            (self.root / sweep["filename"]).rename(self.root / file)
            self.tables["ego_pose"][-1]["token"] = name
            sweep |= {
                "token": name, "ego_pose_token": name, "is_key_frame": False, "filename": file,
                "next": later["token"], "prev": own["prev"],
            }  # fmt: skip
            later["prev"] = name

    def add_instance(
        self, scene: str, keys: list[str], kind: int, row: tuple[str, str, float, Any]
    ) -> None:
        category, attribute, speed, size = row
        samples = {r["token"]: r["timestamp"] for r in self.tables["sample"]}
        names = [token("annotation", scene, kind, i) for i in range(len(keys))]
        bearing, yaw = 0.6 * kind, 0.9 * kind - 2
        for i, key in enumerate(keys):
            seconds = (samples[key] - START) * 1e-6
            place = [400 + 6 * seconds, 1100 + 2 * seconds]
            # Around the ego vehicle, wherever it is, so that every frame has every class in range.
            offset = [(8 + kind) * math.cos(bearing), (8 + kind) * math.sin(bearing)]
            travel = speed * 0.5 * i
            self.tables["sample_annotation"].append(
                {
                    "token": names[i],
                    "sample_token": key,
                    "instance_token": token("instance", scene, kind),
                    "visibility_token": "4",
                    "attribute_tokens": [token("attribute", attribute)] if attribute else [],
                    "translation": [
                        place[0] + offset[0] + travel * math.cos(yaw),
                        place[1] + offset[1] + travel * math.sin(yaw),
                        size[2] / 2 + 0.1 * seconds,
                    ],
                    "size": list(size),
                    "rotation": Quaternion(axis=(0, 0, 1), radians=yaw).elements.tolist(),
                    "prev": names[i - 1] if i else "",
                    "next": names[i + 1] if i + 1 < len(keys) else "",
                    # The traffic cone of the first key frame is hit by nothing.
                    "num_lidar_pts": 0 if kind == 9 and i == 0 else 5 + kind,
                    "num_radar_pts": 0,
                }
            )
        self.tables["instance"].append(
            {
                "token": token("instance", scene, kind),
                "category_token": token("category", category),
                "nbr_annotations": len(keys),
                "first_annotation_token": names[0],
                "last_annotation_token": names[-1],
            }
        )

    def write(self, version: str) -> None:
        folder = self.root / version
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(rows))


def tilt(roll: float, pitch: float) -> Quaternion:
    """A small rotation about x and y, in degrees."""
    return Quaternion(axis=(1, 0, 0), degrees=roll) * Quaternion(axis=(0, 1, 0), degrees=pitch)
