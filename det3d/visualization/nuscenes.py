"""Pictures and videos of samples, of a nuScenes-format database or any other source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from det3d.data.nuscenes import NuScenesDataset
from det3d.data.nuscenes_index import DETECTION_CLASSES
from det3d.structures import SceneBatch
from det3d.visualization.cameras import PictureStyle, draw_lidar_on_cameras
from det3d.visualization.contents import Contents
from det3d.visualization.detectors import Detector
from det3d.visualization.scene import draw_scene
from det3d.visualization.video import write_video


class PictureSource(Protocol):
    """Where the moments to draw come from: a database or a result file."""

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras in the order of the scenes."""

    def __len__(self) -> int: ...

    def token(self, item: int) -> str:
        """The sample token."""

    def scene_name(self, item: int) -> str:
        """The name of the scene that the sample belongs to."""

    def look(self, item: int) -> tuple[SceneBatch, Contents]:
        """One sample and everything there is to draw over it."""


@dataclass(frozen=True, kw_only=True)
class DatabaseSource:
    """Samples of ``dataset``, whose images have the size to be drawn from, and detections."""

    dataset: NuScenesDataset
    detector: Detector | None = None
    with_lidar: bool = False

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Channels as words."""
        return tuple(map(channel_words, self.dataset.cameras))

    def __len__(self) -> int:
        return len(self.dataset)

    def token(self, item: int) -> str:
        """The sample token."""
        return str(self.dataset.index.sample_tokens[self.dataset.row_numbers[item]], "utf-8")

    def scene_name(self, item: int) -> str:
        """The name of the scene that the sample belongs to."""
        index = self.dataset.index
        scene = index.sample_scenes[self.dataset.row_numbers[item]]
        return str(index.scene_names[scene], "utf-8")

    def look(self, item: int) -> tuple[SceneBatch, Contents]:
        """One sample and everything there is to draw over it."""
        scene = self.dataset[item]
        detections, trails = None, None
        if self.detector is not None:
            detections, trails = self.detector(int(self.dataset.row_numbers[item]))
        return scene, Contents(
            class_names=DETECTION_CLASSES,
            ground_truth=scene.targets[0] if scene.targets is not None else None,
            detections=detections,
            trails=trails,
            lidar=self.dataset.lidar_points(item) if self.with_lidar else None,
        )


@dataclass(frozen=True, kw_only=True)
class SamplePictures:
    """Draws the samples of a source by item number."""

    source: PictureSource
    with_queries: bool = True
    """A picture of where the queries of the best detections moved and sampled, if known."""
    style: PictureStyle = field(default_factory=PictureStyle)

    def draw(self, item: int, scene: SceneBatch, contents: Contents) -> np.ndarray:
        """The picture of a sample that the source looked at: (H, W, 3) uint8 RGB."""
        title = f"{self.source.scene_name(item)}  ·  {self.source.token(item)[:8]}"
        names = self.source.camera_names
        return draw_scene(scene, contents, title=title, style=self.style, camera_names=names)

    def draw_all(self, item: int) -> dict[str, np.ndarray]:
        """All pictures of one sample by the ending of their name."""
        scene, contents = self.source.look(item)
        drawn = {"": self.draw(item, scene, replace(contents, trails=None))}
        if contents.lidar is not None:
            drawn["_lidar"] = draw_lidar_on_cameras(
                scene, contents.lidar, style=self.style, camera_names=self.source.camera_names
            )
        if contents.trails is not None and self.with_queries:
            drawn["_queries"] = self.draw(item, scene, replace(contents, ground_truth=None))
        return drawn


def channel_words(channel: str) -> str:
    """A camera channel as words."""
    return channel.removeprefix("CAM_").replace("_", " ").lower()


def write_pictures(pictures: SamplePictures, folder: Path) -> list[Path]:
    """Write every sample as PNG, named by scene and token; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for item in tqdm(range(len(pictures.source)), "draw", unit="sample", dynamic_ncols=True):
        stem = f"{pictures.source.scene_name(item)}_{pictures.source.token(item)}"
        for ending, picture in pictures.draw_all(item).items():
            path = folder / f"{stem}{ending}.png"
            Image.fromarray(picture).save(path)
            paths.append(path)
    return paths


def write_scene_videos(pictures: SamplePictures, folder: Path, fps: float) -> list[Path]:
    """Write the samples of each scene, in order of time, as one MP4; returns the files."""
    scenes: dict[str, list[int]] = {}
    for item in range(len(pictures.source)):
        scenes.setdefault(pictures.source.scene_name(item), []).append(item)
    paths = [folder / f"{name}.mp4" for name in scenes]
    for path, items in zip(paths, scenes.values(), strict=True):
        write_video(frames_of(pictures, items, path.stem), path, fps)
    return paths


def frames_of(pictures: SamplePictures, items: Sequence[int], name: str) -> Iterator[np.ndarray]:
    """The pictures of some samples, one at a time."""
    for item in tqdm(items, name, unit="frame", dynamic_ncols=True):
        scene, contents = pictures.source.look(item)
        yield pictures.draw(item, scene, replace(contents, trails=None))
