"""Everything that can be wrong with a nuScenes-format database."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from det3d.data.nuscenes_index import open_index
from det3d.doctor import calibration, chains, files, objects, scenery
from det3d.doctor import tables as form
from det3d.doctor.tables import Tables, read_tables
from detr2d.doctor.findings import Finding, has_errors
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
        findings += refused(root, version)
    return findings, looks


def refused(root: Path, version: str) -> list[Finding]:
    """The reader's own complaint about the tables, if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            open_index(root, version, Path(folder))
        except (ValueError, OSError) as error:
            said = f"the reader refuses it: {error}"
            return [Finding("error", "refused", str(root / version), said)]
    return []


def versions(root: Path) -> list[str]:
    """The folders of tables below a root."""
    return sorted(path.parent.name for path in root.glob("*/sample.json"))
