"""Pictures and videos of any nuScenes-format database, with the findings of a file or a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from det3d.data.nuscenes import NuScenesDataset
from det3d.data.nuscenes_index import DETECTION_CLASSES, NuScenesIndex
from det3d.evaluation.nuscenes import read_result_boxes
from det3d.geometry import Region
from det3d.structures import SceneBatch
from det3d.visualization.cameras import PictureStyle, draw_lidar_on_cameras
from det3d.visualization.contents import Contents, QueryTrails, query_trails
from det3d.visualization.scene import draw_scene
from det3d.visualization.video import write_video
from detr2d.structures import Detections, Predictions

MOST_TRAILS = 20  # queries whose way is drawn; more hide each other
Findings = tuple[Detections, QueryTrails | None]
Detector = Callable[[int], Findings]
"""Detections, and the ways of their queries if known, of the sample in a row of the index."""


def spread(rows: np.ndarray, count: int | None) -> np.ndarray:
    """``count`` of the rows, evenly spread from the first to the last; all of them for None.

    Raises ValueError if there is no row or none is asked for.
    """
    if not len(rows):
        raise ValueError("there is no sample to draw")
    if count is None:
        return rows
    if count < 1:
        raise ValueError(f"the number of samples to draw must be at least 1, got {count}")
    kept = np.linspace(0, len(rows) - 1, min(count, len(rows)))
    return rows[kept.round().astype(int)]


def read_submission(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The boxes by sample token of an official detection result file.

    Raises ValueError if the file is not one.
    """
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("results"), Mapping):
        raise ValueError(f'{path} is no nuScenes submission: expected {{"meta", "results"}}')
    return dict(content["results"])


def submission_detector(
    index: NuScenesIndex, results: Mapping[str, list[dict[str, Any]]], path: Path, score: float
) -> Detector:
    """Looks detections of at least ``score`` up in the content of an official result file."""

    def detect(row: int) -> Findings:
        token = str(index.sample_tokens[row], "utf-8")
        if token not in results:
            raise KeyError(f"{path} has no sample {token!r} ({len(results)} samples)")
        try:
            found = read_result_boxes(index, token, results[token])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, sample {token}: no detection boxes ({error!r})") from error
        return found.select(found.scores >= score), None

    return detect


def model_detector(
    model: nn.Module,
    postprocess: Callable[[Predictions], list[Detections]],
    dataset: NuScenesDataset,
    *,
    score: float,
    device: torch.device,
) -> Detector:
    """Runs a model on the samples of ``dataset``, which has them as the model expects them.

    Trails are told for models with a ``region`` that their reference points live in.
    """
    model = model.to(device).eval()
    items = {int(row): item for item, row in enumerate(dataset.row_numbers)}

    def detect(row: int) -> Findings:
        with torch.inference_mode():
            predictions = model(dataset[items[row]].to(device))
        found = postprocess(predictions)[0]
        found = found.select(found.scores >= score)
        region = getattr(model, "region", None)
        trails = None
        if isinstance(region, Region):
            best = found.select(torch.arange(min(MOST_TRAILS, len(found)), device=device))
            trails = query_trails(predictions, best, region)
        return found.to("cpu"), trails

    return detect


@dataclass(frozen=True, kw_only=True)
class SamplePictures:
    """Draws samples of ``dataset`` (images at the size to be drawn from) by item number."""

    dataset: NuScenesDataset
    detector: Detector | None = None
    with_lidar: bool = False
    """Lidar points in the bird's-eye view and, as a picture of their own, on the cameras."""
    with_queries: bool = True
    """A picture of where the queries of the best detections moved and sampled, if known."""
    style: PictureStyle = field(default_factory=PictureStyle)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Channels as words."""
        channels = self.dataset.cameras
        return tuple(name.removeprefix("CAM_").replace("_", " ").lower() for name in channels)

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

    def draw(self, item: int, scene: SceneBatch, contents: Contents) -> np.ndarray:
        """The picture of a sample that ``look`` returned: (H, W, 3) uint8 RGB."""
        title = f"{self.scene_name(item)}  ·  {self.token(item)[:8]}"
        names = self.camera_names
        return draw_scene(scene, contents, title=title, style=self.style, camera_names=names)

    def draw_all(self, item: int) -> dict[str, np.ndarray]:
        """All pictures of one sample by the ending of their name."""
        scene, contents = self.look(item)
        drawn = {"": self.draw(item, scene, replace(contents, trails=None))}
        if contents.lidar is not None:
            drawn["_lidar"] = draw_lidar_on_cameras(
                scene, contents.lidar, style=self.style, camera_names=self.camera_names
            )
        if contents.trails is not None and self.with_queries:
            drawn["_queries"] = self.draw(item, scene, replace(contents, ground_truth=None))
        return drawn


def write_pictures(pictures: SamplePictures, folder: Path) -> list[Path]:
    """Write every sample as PNG, named by scene and token; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for item in tqdm(range(len(pictures.dataset)), "draw", unit="sample", dynamic_ncols=True):
        stem = f"{pictures.scene_name(item)}_{pictures.token(item)}"
        for ending, picture in pictures.draw_all(item).items():
            path = folder / f"{stem}{ending}.png"
            Image.fromarray(picture).save(path)
            paths.append(path)
    return paths


def write_scene_videos(pictures: SamplePictures, folder: Path, fps: float) -> list[Path]:
    """Write the samples of each scene, in order of time, as one MP4; returns the files."""
    scenes: dict[str, list[int]] = {}
    for item in range(len(pictures.dataset)):
        scenes.setdefault(pictures.scene_name(item), []).append(item)
    paths = [folder / f"{name}.mp4" for name in scenes]
    for path, items in zip(paths, scenes.values(), strict=True):
        write_video(frames_of(pictures, items, path.stem), path, fps)
    return paths


def frames_of(pictures: SamplePictures, items: Sequence[int], name: str) -> Iterator[np.ndarray]:
    """The pictures of some samples, one at a time."""
    for item in tqdm(items, name, unit="frame", dynamic_ncols=True):
        scene, contents = pictures.look(item)
        yield pictures.draw(item, scene, replace(contents, trails=None))
