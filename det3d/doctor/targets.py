"""Whatever a user points at: what it is, and which checks it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from det3d.data.nuscenes_index import DETECTION_CLASSES, NuScenesIndex, open_index
from det3d.doctor.boxes import Sample
from det3d.doctor.infos import examine_infos, is_infos
from det3d.doctor.nuscenes import examine_database, one_version, versions
from det3d.doctor.result_files import examine_results, to_sample
from det3d.doctor.submissions import examine_submission
from det3d.results.format import FORMAT
from det3d.results.nuscenes import database_frame
from detr2d.checkpoints.files import STATE_FILE
from detr2d.config import UserError
from detr2d.doctor.checkpoints import examine_checkpoint
from detr2d.doctor.coco import read_content
from detr2d.doctor.coco_folder import examine_parts, find_part, find_parts
from detr2d.doctor.coco_results import examine_coco_results
from detr2d.doctor.findings import Finding
from detr2d.doctor.rows import read_list

CHECKPOINTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What else is known about a target: where its database, images, annotations, configs are."""

    root: Path | None = None
    """Folder of the nuScenes-format database that results or infos belong to."""
    version: str | None = None
    """Folder of the tables below root; by default the only one there is."""
    annotations: Path | None = None
    """COCO annotations that results belong to."""
    images: Path | None = None
    """Folder of the images of COCO annotations, if it is not found beside them."""
    config: Path | None = None
    """Config that a checkpoint should fit; by default all configs of this project are tried."""
    index_dir: Path = Path("outputs/index")
    """Where the compact index of the tables is kept."""


def examine(target: Path, around: Surroundings, configs: Sequence[Path]) -> list[Finding]:
    """All findings of a data set, a checkpoint, or a result, info or annotation file.

    Raises UserError if the target does not exist or is none of these.
    """
    if target.is_dir() and not (target / STATE_FILE).is_file():
        return examine_folder(target, around)
    chosen = [around.config] if around.config is not None else list(configs)
    if target.is_dir() or target.suffix.lower() in CHECKPOINTS:
        return examine_checkpoint(target, chosen)
    if not target.is_file():
        raise UserError(
            f"{target} does not exist: expected a config, data set, checkpoint or results"
        )
    if target.suffix.lower() in (".pkl", ".pickle"):
        return examine_infos(target, truth_of(around))
    return examine_json(target, around)


def examine_folder(target: Path, around: Surroundings) -> list[Finding]:
    """A folder with nuScenes tables, COCO annotations, or both."""
    names = [around.version] if around.version else versions(target)
    parts = find_parts(target, around.images)
    if not names and not parts:
        raise UserError(
            f"{target} is no data set: expected VERSION/sample.json, or "
            "annotations/instances_*.json, or state.pt of a training state"
        )
    findings = [finding for name in names for finding in examine_database(target, name)[0]]
    return findings + (examine_parts(parts) if parts else [])


def examine_json(target: Path, around: Surroundings) -> list[Finding]:
    """A JSON file, by what it holds."""
    content, findings = read_list(target)
    if findings:
        return findings
    if isinstance(content, list):
        truth = None
        if around.annotations is not None:
            truth, findings = read_content(around.annotations)
        return findings + examine_coco_results(target, truth)
    if not isinstance(content, dict):
        said = f"it holds {type(content).__name__}, expected an object or a list"
        return [Finding("error", "unknown-file", str(target), said)]
    return examine_object(target, content, around)


def examine_object(target: Path, content: dict[str, Any], around: Surroundings) -> list[Finding]:
    """A JSON object: results of ours, a submission, infos, or COCO annotations."""
    if content.get("format") == FORMAT:
        return examine_results(target)
    if "results" in content:
        return examine_submission(target, index_of(around), around.root)
    if is_infos(content):
        return examine_infos(target, truth_of(around))
    if {"images", "annotations", "categories"} & content.keys():
        return examine_parts([find_part(target, around.images)])
    said = f"an object with {', '.join(list(content)[:8]) or 'nothing'} is none of the known files"
    advice = (
        "known are COCO annotations and results, nuScenes submissions, infos, and results of ours"
    )
    return [Finding("error", "unknown-file", str(target), said, advice)]


def index_of(around: Surroundings) -> NuScenesIndex | None:
    """The index of the database around results, None if none was named."""
    if around.root is None:
        return None
    version = one_version(around.root, around.version)
    return open_index(around.root, version, around.index_dir)


def truth_of(around: Surroundings) -> list[Sample] | None:
    """The annotations of the database in the lidar frame, None if none was named."""
    index = index_of(around)
    if index is None:
        return None
    frames = [database_frame(index, row, None) for row in range(len(index))]
    return [
        to_sample(frame.token, frame.ground_truth, DETECTION_CLASSES)
        for frame in frames
        if frame.ground_truth is not None
    ]
