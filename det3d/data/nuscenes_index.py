"""The tables of a nuScenes-format database as compact arrays that processes share.

The JSON tables are parsed once; what samples need is written as ``.npy`` files to a directory of
its own and opened by memory mapping from then on, so a second start takes milliseconds and workers
share the pages. The directory's name carries a fingerprint of the tables (size and modification
time of each file): changed tables make a new index and remove the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

DETECTION_CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
FORMAT = 2  # raise when the arrays change, so that old indices are rebuilt
TABLES = (
    "category", "instance", "sensor", "calibrated_sensor", "ego_pose",
    "scene", "sample", "sample_data", "sample_annotation",
)  # fmt: skip

Array = npt.NDArray[Any]
RefFrame = Literal["lidar", "ego"]


@dataclass(frozen=True)
class NuScenesIndex:
    """S samples of one database, scene by scene in order of time, with C camera channels.

    scene_names (N,); sample_tokens (S,); sample_scenes (S,) row of the scene; sample_times (S,) in
    microseconds; global_from_ego (S, 4, 4) at the key frame's LIDAR_TOP; ego_from_ref (S, 4, 4)
    with ref = LIDAR_TOP or ego, as asked for; ref_from_lidar (S, 4, 4); lidar_files (S,) below the
    root; image_files (S, C) below the root, empty where the sample has no such camera; image_sizes
    (S, C, 2) (height, width); image_times (S, C) in microseconds; intrinsics (S, C, 3, 3);
    camera_from_ref (S, C, 4, 4), through global at both times; object_starts (S + 1,): objects of
    sample i are rows starts[i] to starts[i + 1] of object_boxes (A, 9) in ref, object_labels (A,)
    and object_points (A,), the number of lidar and radar points. Only objects of the ten detection
    classes are kept. Texts are UTF-8 bytes.
    """

    scene_names: Array
    sample_tokens: Array
    sample_scenes: Array
    sample_times: Array
    global_from_ego: Array
    ego_from_ref: Array
    ref_from_lidar: Array
    lidar_files: Array
    image_files: Array
    image_sizes: Array
    image_times: Array
    intrinsics: Array
    camera_from_ref: Array
    object_starts: Array
    object_boxes: Array
    object_labels: Array
    object_points: Array
    version: str
    channels: tuple[str, ...]
    splits: Mapping[str, tuple[str, ...]]
    directory: Path

    def __len__(self) -> int:
        return len(self.sample_tokens)

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled arrays would be copies; a spawned worker maps the same files instead.
        return load_index, (self.directory,)

    @cached_property
    def rows_by_token(self) -> dict[str, int]:
        """Row of each sample token."""
        return {str(token, "utf-8"): row for row, token in enumerate(self.sample_tokens)}

    def row(self, token: str) -> int:
        """Row of the sample with this token. Raises KeyError if there is none."""
        if token not in self.rows_by_token:
            raise KeyError(f"no sample {token!r} in {self.version} ({len(self)} samples)")
        return self.rows_by_token[token]

    def rows(self, selection: str | Sequence[str]) -> Array:
        """Rows of the samples in a split, a scene, or several of them, in order of the index.

        Raises ValueError for a name that is neither, for a split of another version and for one
        without scenes in this database.
        """
        names = (selection,) if isinstance(selection, str) else tuple(selection)
        scenes = {scene for name in names for scene in self._scenes(name)}
        chosen = [str(name, "utf-8") in scenes for name in self.scene_names]
        return np.flatnonzero(np.asarray(chosen, dtype=bool)[self.sample_scenes])

    def _scenes(self, name: str) -> tuple[str, ...]:
        scenes = [str(scene, "utf-8") for scene in self.scene_names]
        if name in scenes:
            return (name,)
        usable = [split for split, members in self.splits.items() if members]
        if name in usable:
            return self.splits[name]
        if name in self.splits:
            raise ValueError(
                f"split {name!r} has no scene in {self.version}; splits with scenes here: "
                + (", ".join(usable) or "none")
            )
        close = get_close_matches(name, [*self.splits, *scenes], n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(
            f"{name!r} is neither a split of {self.version} nor a scene of this database; {hint}"
            f"splits with scenes here: {', '.join(usable) or 'none'}"
        )


ARRAYS = tuple(f.name for f in fields(NuScenesIndex) if f.type == "Array")


def open_index(root: Path, version: str, index_dir: Path, ref: RefFrame = "lidar") -> NuScenesIndex:
    """Open the index of ``root/version``, building it first where there is none for these tables.

    ``ref`` is the frame of its boxes and rigs: the key frame's LIDAR_TOP, or the ego car then.
    Raises FileNotFoundError for a missing root, version or table.
    """

    def build(tables: Path) -> tuple[dict[str, Array], dict[str, Any]]:
        from det3d.data.nuscenes_tables import build_index

        return build_index(tables, ref)

    return load_index(keep_arrays(ref, root, version, index_dir, build))


def keep_arrays(
    kind: str,
    root: Path,
    version: str,
    index_dir: Path,
    build: Callable[[Path], tuple[Mapping[str, Array], Mapping[str, Any]]],
) -> Path:
    """The directory of the arrays that ``build`` makes of a folder of tables, made where missing.

    ``kind`` tells several that are made of the same tables apart.
    """
    tables = check_database(root, version)
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]
    family = f"{version}-{kind}-{place}"
    directory = index_dir / f"{family}-{fingerprint(tables)}"
    if not (directory / "meta.json").is_file():
        with naming(tables[0].parent):
            arrays, meta = build(tables[0].parent)
        write_index(directory, arrays, {**meta, "version": version})
        for old in set(index_dir.glob(f"{family}-*")) - {directory}:
            shutil.rmtree(old, ignore_errors=True)
    return directory


@contextlib.contextmanager
def naming(tables: Path) -> Iterator[None]:
    """Let a ValueError about rows of tables say which database they belong to."""
    try:
        yield
    except ValueError as error:
        if str(tables) in str(error):
            raise
        raise ValueError(f"{tables}: {error}") from error


def check_database(root: Path, version: str) -> list[Path]:
    """Paths of the tables that the index reads. Raises FileNotFoundError naming what is missing."""
    if not root.is_dir():
        raise FileNotFoundError(f"no nuScenes database at {root}: the folder does not exist")
    if not (root / version).is_dir():
        found = sorted(path.parent.name for path in root.glob("*/sample.json"))
        raise FileNotFoundError(
            f"{root} has no version {version!r}; found: {', '.join(found) or 'no version at all'}"
        )
    paths = [root / version / f"{table}.json" for table in TABLES]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{root / version} lacks the tables {', '.join(missing)}")
    custom_splits = root / version / "splits.json"
    return [*paths, custom_splits] if custom_splits.is_file() else paths


def fingerprint(tables: Iterable[Path]) -> str:
    """A short hash of names, sizes and modification times of files."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in tables]
    return hashlib.sha256(repr((FORMAT, stats)).encode()).hexdigest()[:16]


def write_index(directory: Path, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
    """Write the arrays so that ``directory`` appears complete or not at all."""
    partial = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", array)
    (partial / "meta.json").write_text(json.dumps(meta, indent=1))
    try:
        os.replace(partial, directory)
    except OSError:
        # Another process finished the same index in the meantime; theirs is as good.
        shutil.rmtree(partial)
        if not (directory / "meta.json").is_file():
            raise


def load_index(directory: Path) -> NuScenesIndex:
    """Map a written index into memory."""
    meta = json.loads((directory / "meta.json").read_text())
    arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    return NuScenesIndex(
        **arrays,
        version=meta["version"],
        channels=tuple(meta["channels"]),
        splits={split: tuple(scenes) for split, scenes in meta["splits"].items()},
        directory=directory,
    )
