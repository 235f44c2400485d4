"""What can be wrong with a result file of ours (docs/results_format.md)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from det3d.doctor.boxes import Sample, judge_alone, judge_pairs, judge_scores, match
from det3d.doctor.calibration import INTRINSIC_WORDS, intrinsic_faults
from det3d.geometry import is_rigid
from det3d.results.format import Frame, Objects, Results, read_results
from detr2d.data.paths import is_below
from detr2d.doctor.findings import Finding, gather
from detr2d.doctor.images import Wanted, examine_images
from detr2d.doctor.rows import repeated


def examine_results(path: Path) -> list[Finding]:
    """All findings of a result file; the reader stops at the first malformed frame."""
    try:
        results = read_results(path)
    except (ValueError, OSError) as error:
        return [Finding("error", "refused", str(path), str(error), "docs/results_format.md")]
    where = str(path)
    findings = gather(
        "error", "token-twice", path, repeated(f.token for f in results.frames),
        "frames that stand twice", "each frame has a token of its own",
    )  # fmt: skip
    findings += rigs(results, where)
    found = [
        to_sample(f.token, f.detections, results.names)
        for f in results.frames
        if f.detections is not None
    ]
    truth = [
        to_sample(f.token, f.ground_truth, results.names)
        for f in results.frames
        if f.ground_truth is not None
    ]
    findings += judge_scores(found, where)
    compared = list(judge_pairs(match(found, truth), where)) if found and truth else []
    kinds = {finding.kind for finding in compared}
    alone = [finding for finding in judge_alone(found or truth, where) if finding.kind not in kinds]
    return findings + compared + alone + image_files(results, where)


def to_sample(token: str, objects: Objects, names: tuple[str, ...]) -> Sample:
    """The objects of a frame with their class names."""
    labels = tuple(names[label] for label in objects.labels.tolist())
    return Sample(token, objects.boxes, labels, objects.scores)


def rigs(results: Results, where: str) -> Iterable[Finding]:
    """Matrices that are no rotation, and intrinsics of another image size."""
    stiff, faults = [], {kind: [] for kind in INTRINSIC_WORDS}  # type: ignore[var-annotated]
    for frame in results.frames:
        stiff += [f"frame {frame.token}: {name}" for name in skewed(frame)]
        for camera in frame.cameras:
            size = (camera.height, camera.width)
            for kind, words in intrinsic_faults(camera.intrinsics.tolist(), size):
                faults[kind].append(f"frame {frame.token}, {camera.name}: {words}")
    yield from gather(
        "error", "no-rotation", where, stiff, "transforms that are no rotation with a translation",
        "rows must be orthogonal and of length one, the determinant 1, the last row 0 0 0 1",
    )  # fmt: skip
    for kind, items in faults.items():
        severity = "warning" if kind == "intrinsics-view" else "error"
        yield from gather(severity, kind, where, items, *INTRINSIC_WORDS[kind])  # type: ignore[arg-type]


def skewed(frame: Frame) -> list[str]:
    """Names of the transforms of a frame that are not rigid."""
    transforms = {
        "ego_from_ref": frame.ego_from_ref, "global_from_ref": frame.global_from_ref,
        **{f"camera_from_ref of {c.name}": c.camera_from_ref for c in frame.cameras},
    }  # fmt: skip
    return [name for name, matrix in transforms.items() if not rigid(matrix)]


def rigid(matrix: np.ndarray) -> bool:
    """Whether a matrix (4, 4) is finite and a proper rotation with a translation."""
    return bool(np.isfinite(matrix).all() and is_rigid(torch.from_numpy(matrix), 1e-3))


def image_files(results: Results, where: str) -> list[Finding]:
    """What is wrong with the images, if the folder is there at all."""
    wanted = [
        Wanted(f"frame {frame.token}, {camera.name}", camera.image, (camera.height, camera.width))
        for frame in results.frames
        for camera in frame.cameras
    ]
    present = [w for w in wanted if is_below(w.name) and (results.image_root / w.name).is_file()]
    if wanted and not present and all(is_below(w.name) for w in wanted):
        said = f"none of the {len(wanted)} images is below {results.image_root}"
        return [Finding("warning", "image-missing", where, said, "viewers need --root FOLDER")]
    return examine_images(results.image_root, wanted, where)
