"""What the rendering of one key frame reports: everything that tables and COCO files need."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from det3d.data.toy_scene import ScenePlan

START_TIME = 1_530_000_000_000_000  # microseconds; scenes follow one another from here
SCENE_SPACING = 600_000_000


@dataclass(frozen=True)
class SensorRecord:
    """One file of one sensor; pose: x, y, yaw of the ego in the global frame at that moment."""

    channel: str
    filename: str
    timestamp: int
    pose: tuple[float, float, float]


@dataclass(frozen=True)
class AnnotationRecord:
    """One annotated thing in a key frame; pose: x, y, z, yaw in the global frame.

    size: length, width, height; visibility: 1 to 4 as in the benchmark.
    """

    actor: int
    category: str
    pose: tuple[float, float, float, float]
    size: tuple[float, float, float]
    attribute: str
    num_lidar_points: int
    visibility: int


@dataclass(frozen=True)
class MaskRecord:
    """One thing in one image; box: x, y, width, height in pixels; counts: COCO run lengths."""

    segment: int
    category: int
    box: tuple[float, float, float, float]
    area: int
    counts: str


@dataclass(frozen=True)
class ImageRecord:
    """COCO truth of one image; stuff: (category, area, box) of each stuff class in it."""

    filename: str
    panoptic: str
    masks: tuple[MaskRecord, ...]
    stuff: tuple[tuple[int, int, tuple[int, int, int, int]], ...]


@dataclass(frozen=True)
class FrameRecord:
    """One key frame: sensors in rig order with the lidar last."""

    plan: ScenePlan
    scene: int
    frame: int
    sensors: tuple[SensorRecord, ...]
    annotations: tuple[AnnotationRecord, ...]
    images: tuple[ImageRecord, ...]

    @property
    def timestamp(self) -> int:
        """Microseconds of the lidar sweep, which dates the sample."""
        return self.sensors[-1].timestamp


def make_token(*parts: object) -> str:
    """A token of 32 hex digits that depends on nothing but its parts."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def log_name(plan: ScenePlan) -> str:
    """Name of the log of a scene, which begins the names of its files."""
    return f"toy{plan.seed}-{plan.name}"


def frame_time(scene: int, seconds: float) -> int:
    """Microseconds since 1970 of a moment in a scene."""
    return START_TIME + scene * SCENE_SPACING + round(seconds * 1e6)
