"""A picture that shows whether boxes, lidar and images fit together, for the eye to judge."""

from __future__ import annotations

from pathlib import Path

from det3d.doctor.nuscenes import one_version, versions
from det3d.doctor.targets import Surroundings
from det3d.visualization.nuscenes import write_pictures
from det3d.visualization.request import PictureRequest, make_pictures
from detr2d.config import UserError
from detr2d.doctor.findings import Finding


def draw_overlay(root: Path, around: Surroundings, folder: Path, count: int = 2) -> list[Finding]:
    """Samples of a database with boxes, and with lidar points, drawn over the images.

    Returns a note with the files, or the error that kept them from being drawn. Raises UserError if
    ``root`` is no nuScenes-format database, or has several versions and none is named.
    """
    if not root.is_dir() or not (around.version or versions(root)):
        raise UserError(f"--overlay draws nuScenes-format databases, {root} is none")
    request = PictureRequest(
        root=root, version=one_version(root, around.version), count=count, lidar=True,
        output_dir=folder, index_dir=around.index_dir,
    )  # fmt: skip
    try:
        paths = write_pictures(make_pictures(request), folder)
    except (ValueError, OSError) as error:
        return [Finding("error", "overlay", str(root), f"it cannot be drawn: {error}")]
    said = "look whether boxes and lidar points lie on the objects: " + ", ".join(map(str, paths))
    advice = "boxes beside objects: calibration or poses; boxes turned: their rotation"
    return [Finding("note", "overlay", str(folder), said, advice)]
