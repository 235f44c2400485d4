"""The sensors of the toy world: the real nuScenes rig, rounded, at any image size.

Numbers are those of the public nuScenes calibration (scene-0061). Frames: camera x right, y down,
z forward; lidar x right, y forward, z up; ego x forward, y left, z up at the rear axle on the
ground. Nothing here needs torch, so that rendering processes start quickly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LIDAR_CHANNEL = "LIDAR_TOP"
CALIBRATED_SIZE = (900, 1600)  # height, width that the intrinsics below belong to
LIDAR_BEAMS = 32
LIDAR_STEPS = 1080
LIDAR_ELEVATION = (np.deg2rad(-30.67), np.deg2rad(10.67))
LIDAR_RANGE = 90.0
KEY_FRAME_PERIOD = 0.5


@dataclass(frozen=True)
class Sensor:
    """Where one sensor sits and when it fires.

    rotation: quaternion w, x, y, z of ego_from_sensor; translation in the ego frame;
    focal and centre: pixels at ``CALIBRATED_SIZE`` (0 for lidar); delay: seconds after the key
    frame's lidar sweep, negative for cameras, which fire as the sweep passes them.
    """

    channel: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    focal: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)
    delay: float = 0.0

    @property
    def ego_from_sensor(self) -> Array:
        """Rotation matrix (3, 3)."""
        return quaternion_to_matrix(self.rotation)

    def intrinsics(self, image_size: tuple[int, int]) -> Array:
        """Matrix (3, 3) for images of ``image_size`` (height, width)."""
        down, across = (new / old for new, old in zip(image_size, CALIBRATED_SIZE, strict=True))
        return np.array([
            [self.focal * across, 0.0, self.centre[0] * across],
            [0.0, self.focal * down, self.centre[1] * down],
            [0.0, 0.0, 1.0],
        ])  # fmt: skip


CAMERAS = (
    Sensor("CAM_FRONT", (1.70079, 0.01595, 1.51096),
           (0.49980, -0.50303, 0.49978, -0.49737), 1266.42, (816.267, 491.507), -0.0355),
    Sensor("CAM_FRONT_RIGHT", (1.55085, -0.49340, 1.49575),
           (0.20603, -0.20269, 0.68245, -0.67136), 1260.85, (807.968, 495.334), -0.0276),
    Sensor("CAM_BACK_RIGHT", (1.01488, -0.48057, 1.56240),
           (0.12281, -0.13240, -0.70043, 0.69050), 1259.51, (807.253, 501.196), -0.0200),
    Sensor("CAM_BACK", (0.02833, 0.00345, 1.57910),
           (0.50379, -0.49741, -0.49419, 0.50455), 809.221, (829.220, 481.778), -0.0104),
    Sensor("CAM_BACK_LEFT", (1.03569, 0.48480, 1.59097),
           (0.69242, -0.70316, -0.11648, 0.11203), 1256.74, (792.113, 492.776), -0.0005),
    Sensor("CAM_FRONT_LEFT", (1.52388, 0.49463, 1.50933),
           (0.67573, -0.67363, 0.21214, -0.21123), 1272.60, (826.615, 479.752), -0.0430),
)  # fmt: skip
LIDAR = Sensor(
    LIDAR_CHANNEL, (0.94371, 0.0, 1.84023), (0.70780, -0.00649, 0.01065, -0.70631)
)
SENSORS = (*CAMERAS, LIDAR)


def quaternion_to_matrix(quaternion: tuple[float, float, float, float]) -> Array:
    """Rotation matrix (3, 3) of a quaternion w, x, y, z of any length."""
    w, x, y, z = np.asarray(quaternion) / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def yaw_to_matrix(yaw: float) -> Array:
    """Rotation matrix (3, 3) about z."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def yaw_to_quaternion(yaw: float) -> list[float]:
    """Quaternion w, x, y, z of a rotation about z."""
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]
