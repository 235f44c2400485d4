"""Result files with simple numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from det3d.results.format import Camera, Category, Frame, Objects, Results, write_results

CLASSES = (Category("car", 50.0), Category("pedestrian", 40.0), Category("cone", None))


def make_objects(*rows: list[float], labels: list[int] | None = None, scores=None) -> Objects:
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 9)
    return Objects(
        boxes,
        np.array(labels if labels is not None else [0] * len(boxes), dtype=np.int64),
        None if scores is None else np.array(scores, dtype=np.float64),
    )


def car(x: float, y: float, yaw: float = 0.0) -> list[float]:
    return [x, y, 0.0, 4.5, 1.9, 1.6, yaw, 1.0, 0.5]


def ring_camera(angle: float, width: int = 96, height: int = 54) -> Camera:
    """A level camera at the origin that looks along ``angle`` from +x, 70 degrees wide."""
    focal = width / 2 / math.tan(math.radians(35))
    forward = np.array([math.cos(angle), math.sin(angle), 0.0])
    down = np.array([0.0, 0.0, -1.0])
    pose = np.eye(4)
    pose[:3, :3] = [np.cross(down, forward), down, forward]
    name = f"camera {round(math.degrees(angle))}"
    intrinsics = np.array([[focal, 0, width / 2 + 1], [0, focal, height / 2 - 2], [0, 0, 1]])
    return Camera(name, f"{name}.jpg", width, height, intrinsics, pose)


def make_frame(token: str = "first", num_cameras: int = 6, **changes: object) -> Frame:
    """A frame whose ref frame is turned and tilted against the ego and global frames."""
    cameras = tuple(ring_camera(2 * math.pi * i / num_cameras) for i in range(num_cameras))
    frame = Frame(
        token=token,
        scene="street",
        time=1.5,
        cameras=cameras,
        ego_from_ref=rigid(0.02, 0.3, [0.9, 0.0, 1.8]),
        global_from_ref=rigid(0.03, -1.2, [400.0, 1100.0, 2.0]),
        detections=make_objects(
            car(10, 0.5), car(-3, 12, 2.0), car(30, 30), scores=[0.9, 0.6, 0.2]
        ),
        ground_truth=make_objects(car(10, 0), car(0, -8, 1.0), car(-3, 11, 2.1)),
    )
    return replace(frame, **changes)  # type: ignore[arg-type]


def rigid(tilt: float, yaw: float, translation: list[float]) -> np.ndarray:
    """A transform (4, 4) that turns about z, then tilts about x."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    about_z = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    cos, sin = math.cos(tilt), math.sin(tilt)
    transform = np.eye(4)
    transform[:3, :3] = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ about_z
    transform[:3, 3] = translation
    return transform


def write_images(folder: Path, frames: tuple[Frame, ...]) -> None:
    """Grey images for all cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    for camera in {c.image: c for frame in frames for c in frame.cameras}.values():
        Image.new("RGB", (camera.width, camera.height), (90, 100, 110)).save(folder / camera.image)


def write_result_file(folder: Path, *frames: Frame) -> Path:
    """A result file with its images."""
    write_images(folder / "images", frames)
    write_results(folder / "results.json", Results(CLASSES, frames, folder / "images"))
    return folder / "results.json"
