"""A seeded, procedural driving world written to disk as a valid nuScenes database.

The devkit loads, draws and judges it unmodified. The same seed gives the same bytes, whatever the
number of workers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from det3d.data.toy_coco import coco_files
from det3d.data.toy_frames import FrameTask, render_frames
from det3d.data.toy_records import FrameRecord
from det3d.data.toy_rig import KEY_FRAME_PERIOD
from det3d.data.toy_scene import ScenePlan, plan_split
from det3d.data.toy_tables import make_tables

VERSION_SPLITS = {
    "v1.0-mini": ("mini_train", "mini_val"),
    "v1.0-trainval": ("train", "val"),
}
MARKER = "toy_world.json"
UNFINISHED = "toy_world.unfinished"
FRAMES_PER_TASK = 5
FORMERLY: dict[str, Any] = {"balanced": False}  # what settings were before they had a name
FORMAT = 1  # raised when the same settings give another world


def make_toy_nuscenes(
    root: Path,
    *,
    version: str = "v1.0-mini",
    seed: int = 0,
    image_size: tuple[int, int] = (256, 448),
    frames_per_scene: int = 40,
    frame_period: float = KEY_FRAME_PERIOD,
    scenes_per_split: tuple[int, int] | None = None,
    workers: int = 2,
    coco: bool = True,
    balanced: bool = False,
    progress: bool = True,
) -> Path:
    """Write a toy world to ``root`` and return it; a world of the same settings is kept.

    image_size: height, width; frame_period: seconds between key frames, beyond 1.5 of which
    velocities are unknown; scenes_per_split: how many of the official scene names of the training
    and the validation split, None for all; balanced: rare classes two to four times as often, for
    training; workers: processes, 0 for none. The world is written beside ``root`` and moved
    there when it is complete.
    Raises ValueError for settings out of range, FileExistsError if ``root`` holds anything else.
    """
    root = Path(root)
    settings = {
        "format": FORMAT, "version": version, "seed": seed, "image_size": list(image_size),
        "frames_per_scene": frames_per_scene, "frame_period": frame_period, "coco": coco,
        "balanced": balanced,
        "scenes_per_split": list(scenes_per_split) if scenes_per_split else None,
    }  # fmt: skip
    plans = plan_world(
        version, seed, frames_per_scene, scenes_per_split, frame_period, balanced=balanced
    )
    if min(image_size) < 32:
        raise ValueError(f"images must be at least 32 pixels high and wide, got {image_size}")
    if _is_complete(root, settings):
        return root
    partial = _fresh_folder(root.with_name(root.name + ".partial"))
    tasks = _tasks(plans, image_size, coco)
    records = _render(partial, tasks, workers, progress)
    _write_tables(partial / version, records, image_size)
    if coco:
        for split in VERSION_SPLITS[version]:
            frames = [record for record in records if record.plan.split == split]
            for name, content in coco_files(split, frames, image_size).items():
                _write_json(partial / "coco" / "annotations" / name, content)
    (partial / UNFINISHED).rename(partial / MARKER)
    _write_json(partial / MARKER, settings)
    if root.exists():
        root.rmdir()
    os.replace(partial, root)
    return root


def plan_world(version: str, seed: int, frames_per_scene: int,
               scenes_per_split: tuple[int, int] | None,
               frame_period: float = KEY_FRAME_PERIOD, *,
               balanced: bool = False) -> list[ScenePlan]:  # fmt: skip
    """The plans of all scenes of a world, training split first.

    Raises ValueError for an unknown version or counts out of range.
    """
    from nuscenes.utils import splits  # slow to import and not needed by the workers

    if version not in VERSION_SPLITS:
        raise ValueError(f"version must be one of {sorted(VERSION_SPLITS)}, got {version!r}")
    if frames_per_scene < 1 or seed < 0:
        raise ValueError(
            f"need frames_per_scene >= 1 and seed >= 0, got {frames_per_scene}, {seed}"
        )
    if frame_period <= 0:
        raise ValueError(f"need frame_period > 0 seconds, got {frame_period}")
    plans = []
    for k, split in enumerate(VERSION_SPLITS[version]):
        names = list(getattr(splits, split))
        count = len(names) if scenes_per_split is None else scenes_per_split[k]
        if not 0 <= count <= len(names):
            raise ValueError(f"split {split} has {len(names)} scene names, {count} were asked for")
        plans += plan_split(
            split, names[:count], seed, frames_per_scene, frame_period, balanced=balanced
        )
    if not plans:
        raise ValueError("a world needs at least one scene")
    return plans


def _is_complete(root: Path, settings: dict[str, Any]) -> bool:
    """Tell whether the world is already there. Raises FileExistsError if something else is."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    marker = root / MARKER
    if not marker.is_file():
        raise FileExistsError(f"{root} is not empty and no toy world: choose another folder")
    found = FORMERLY | json.loads(marker.read_text())
    if found != settings:
        different = sorted(k for k in settings if found.get(k) != settings[k])
        raise FileExistsError(
            f"{root} holds a toy world of other settings: "
            + ", ".join(f"{k} is {found.get(k)}, asked for {settings[k]}" for k in different)
        )
    return True


def _fresh_folder(partial: Path) -> Path:
    """An empty folder for the unfinished world; leftovers of an interrupted run are removed."""
    unfinished = partial / UNFINISHED
    if partial.exists():
        if not unfinished.is_file():
            raise FileExistsError(f"{partial} is in the way and no unfinished toy world")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    unfinished.touch()
    return partial


def _tasks(plans: list[ScenePlan], image_size: tuple[int, int], coco: bool) -> list[FrameTask]:
    return [
        FrameTask(
            plan, scene, first, min(first + FRAMES_PER_TASK, plan.num_frames), image_size, coco
        )
        for scene, plan in enumerate(plans)
        for first in range(0, plan.num_frames, FRAMES_PER_TASK)
    ]


def _render(root: Path, tasks: list[FrameTask], workers: int, progress: bool) -> list[FrameRecord]:
    """Render all tasks; every scene stays with one worker, which prepares it once."""
    frames = sum(task.last - task.first for task in tasks)
    records: list[FrameRecord] = []
    with tqdm(total=frames, desc="toy world", unit="frame", disable=not progress) as bar:
        for batch in _in_process(root, tasks) if workers < 1 else _in_workers(root, tasks, workers):
            records += batch
            bar.update(len(batch))
    return sorted(records, key=lambda record: (record.scene, record.frame))


def _in_process(root: Path, tasks: list[FrameTask]) -> Iterator[list[FrameRecord]]:
    for task in tasks:
        yield render_frames(root, task)


def _in_workers(root: Path, tasks: list[FrameTask], workers: int) -> Iterator[list[FrameRecord]]:
    """Results as they come. Fresh processes, because a fork of a threaded one may hang."""
    context = multiprocessing.get_context("spawn")
    alone = len({task.scene for task in tasks}) < workers
    with ExitStack() as stack:
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, context, _single_thread))
            for _ in range(min(workers, len(tasks)))
        ]
        futures: list[Future[list[FrameRecord]]] = []
        for k, task in enumerate(tasks):
            slot = k if alone else task.scene
            futures.append(pools[slot % len(pools)].submit(render_frames, root, task))
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _single_thread() -> None:
    cv2.setNumThreads(1)


def _write_tables(folder: Path, records: list[FrameRecord], image_size: tuple[int, int]) -> None:
    for name, rows in make_tables(records, image_size).items():
        _write_json(folder / f"{name}.json", rows)


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")))
