"""Everything that can be wrong with a nuScenes-format database."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from det3d.data.nuscenes_index import open_index
from det3d.doctor import calibration, chains, files, objects, scenery
from det3d.doctor import tables as form
from det3d.doctor.tables import Tables, read_tables
from detr2d.config import UserError
from detr2d.doctor.findings import Finding, has_errors, refused
from detr2d.doctor.images import Look

CHECKS: tuple[Callable[[Tables], Iterable[Finding]], ...] = (
    form.empty_tables, form.tokens, form.references, form.attributes,
    form.attribute_classes, form.scenes_in_splits, form.category_names,
    chains.links, chains.chain_ends, chains.sample_sensors, chains.times, chains.pose_times,
    chains.motion, chains.double_objects,
    files.escapes, files.lidar_files, files.maps,
    calibration.rotations, calibration.intrinsics, calibration.mounting, calibration.directions,
    calibration.ego_poses, calibration.channel_files,
    objects.sizes, objects.headings, objects.tilted_boxes, objects.places, objects.points,
    scenery.unseen_boxes, scenery.lidar_boxes,
)  # fmt: skip


def examine_database(root: Path, version: str) -> tuple[list[Finding], list[Look]]:
    """All findings, and the looks at its images, to compare with those of another database."""
    tables, findings = read_tables(root, version)
    if tables is None:
        return findings, []
    for check in CHECKS:
        findings += check(tables)
    looks = files.camera_looks(tables)
    findings += files.images(tables, looks)
    if not has_errors(findings):
        with tempfile.TemporaryDirectory() as folder:
            findings += refused(root / version, lambda: open_index(root, version, Path(folder)))
    return findings, looks


def versions(root: Path) -> list[str]:
    """The folders of tables below a root."""
    return sorted(path.parent.name for path in root.glob("*/sample.json"))


def one_version(root: Path, version: str | None) -> str:
    """The folder of tables that is meant. Raises UserError if that cannot be told."""
    found = versions(root)
    if version is None and len(found) != 1:
        raise UserError(f"--version is missing: {root} has {', '.join(found) or 'none'}")
    return version or found[0]
