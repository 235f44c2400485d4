"""What can be wrong with an official nuScenes result file, alone and against its database."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from det3d.data.nuscenes_index import DETECTION_CLASSES, NuScenesIndex
from det3d.doctor.boxes import Sample, judge_alone, judge_pairs, judge_scores, match
from det3d.doctor.objects import WRITTEN
from det3d.evaluation.conventions import wrong_conventions
from det3d.evaluation.nuscenes import MAX_BOXES, ResultArrays
from det3d.evaluation.nuscenes_arrays import array_metrics
from det3d.evaluation.nuscenes_truth import JudgedObjects, headings, open_objects
from det3d.results.geometry import Array, transform_boxes
from det3d.results.nuscenes import ATTRIBUTES, MOVING_SPEED, official_numbers, read_submission
from detr2d.data.json_files import is_number
from detr2d.doctor.findings import Finding, gather, has_errors, refused
from detr2d.doctor.rows import FILLED, NUMBER, TEXT, Row, numbers, repeated, sort_rows

META = ("use_camera", "use_lidar", "use_radar", "use_map", "use_external")
KNOWN_ATTRIBUTES = {"", *(name for pair in ATTRIBUTES.values() for name in pair)} | {
    "pedestrian.sitting_lying_down", "vehicle.parked", "vehicle.stopped",
}  # fmt: skip
NORM = 1e-2


def is_velocity(value: Any) -> bool:
    """Two numbers; unknown ones may be NaN, but none infinite."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(is_number(number) or number != number for number in value)


SCHEMA = {
    "sample_token": FILLED, "translation": numbers(3), "size": numbers(3), "rotation": numbers(4),
    "velocity": (is_velocity, "two numbers, none infinite"), "detection_name": TEXT,
    "detection_score": NUMBER, "attribute_name": TEXT,
}  # fmt: skip


@dataclass(frozen=True)
class Submission:
    """The boxes of a result file that can be read on, by sample token."""

    path: Path
    boxes: dict[str, list[Row]]


def read_boxes(path: Path) -> tuple[Submission | None, list[Finding]]:
    """The boxes of a submission and what is wrong with its form."""
    doubled: list[str] = []

    def remember(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        doubled.extend(repeated(key for key, _ in pairs))
        return dict(pairs)

    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=remember)
    except (OSError, ValueError, RecursionError) as error:
        said = f"it is no JSON file ({str(error)[:200]})"
        return None, [Finding("error", "file-unreadable", str(path), said)]
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        said = 'it is no submission: expected {"meta": ..., "results": {token: boxes}}'
        return None, [Finding("error", "no-submission", str(path), said)]
    findings = gather(
        "error", "token-twice", path, doubled, "keys that stand twice in one object",
        "a sample token names one list of boxes: readers keep the last list only",
    )  # fmt: skip
    meta = content.get("meta")
    lacking = [key for key in META if not isinstance(meta, dict) or key not in meta]
    advice = "the official evaluation wants meta with these five"
    findings += gather("error", "no-meta", path, lacking, "keys of meta that are missing", advice)
    boxes: dict[str, list[Row]] = {}
    for token, rows in results.items():
        listed = rows if isinstance(rows, list) else [rows]
        boxes[token], broken = sort_rows(listed, SCHEMA, path, f"box of sample {token}")
        findings += broken
    return Submission(path, boxes), merge_broken(findings)


def merge_broken(findings: Sequence[Finding]) -> list[Finding]:
    """One finding for the malformed rows of all samples."""
    broken = [f.message for f in findings if f.kind == "malformed-row"]
    others = [f for f in findings if f.kind != "malformed-row"]
    where = findings[0].where if findings else ""
    return others + gather("error", "malformed-row", where, broken, "samples with malformed boxes")


def examine_submission(path: Path, index: NuScenesIndex | None, root: Path | None) -> list[Finding]:
    """All findings; with the index of its database also what the annotations tell."""
    submission, findings = read_boxes(path)
    if submission is None:
        return findings
    findings += rows(submission)
    if not has_errors(findings):
        findings += refused(path, lambda: read_submission(path))
    kept = {t: [b for b in boxes if usable(b)] for t, boxes in submission.boxes.items()}
    readable = Submission(path, kept)
    samples = [to_sample(token, boxes) for token, boxes in readable.boxes.items()]
    findings += judge_scores(samples, str(path))
    alone = list(judge_alone(samples, str(path), WRITTEN))
    if index is None or root is None:
        said = "only the file itself was looked at"
        advice = "--root and --version of its database tell about tokens, frame and headings too"
        return [*findings, *alone, Finding("note", "no-database", str(path), said, advice)]
    findings += tokens(readable, index)
    objects = open_objects(index, root)
    truth = truth_samples(objects, index, readable.boxes)
    compared = list(frame(samples, truth, index, str(path)))
    compared += judge_pairs(match(samples, truth), str(path), WRITTEN)
    kinds = {finding.kind for finding in compared}
    findings += compared + [finding for finding in alone if finding.kind not in kinds]
    if not has_errors(f for f in findings if f.kind in ("malformed-row", "token-unknown")):
        patterns = signature(readable, index, objects)
        findings += [f for f in patterns if "size-unit" not in kinds or f.kind != "size-order"]
    return findings


def usable(box: Row) -> bool:
    """Whether a box is of a known class and has a rotation."""
    return box["detection_name"] in DETECTION_CLASSES and any(box["rotation"])


def rows(submission: Submission) -> Iterable[Finding]:
    """Faults of single boxes."""
    path = submission.path
    everything = [(t, box) for t, boxes in submission.boxes.items() for box in boxes]
    for kind, key, message, advice, wrong in BOX_FAULTS:
        found = [f"sample {t}: {box[key]}" for t, box in everything if wrong(t, box)]
        yield from gather("error", kind, path, found, message, advice)
    copies = Counter(
        (token, box["detection_name"], box["detection_score"], *box["translation"])
        for token, box in everything
    )
    yield from gather(
        "warning", "duplicate-object", path,
        [f"sample {key[0]}: {key[1]}" for key, count in copies.items() if count > 1],
        "boxes that stand more than once", "were the results of two processes joined twice?",
    )  # fmt: skip
    many = [f"{t}: {len(b)}" for t, b in submission.boxes.items() if len(b) > MAX_BOXES]
    yield from gather(
        "error", "too-many-boxes", path, many, f"samples with more than {MAX_BOXES} boxes",
        "keep the best: the official evaluation refuses more",
    )  # fmt: skip


BOX_FAULTS: tuple[tuple[str, str, str, str, Callable[[str, Row], bool]], ...] = (
    (
        "token-mismatch", "sample_token", "boxes whose sample_token is not that of their list",
        "write the token of the sample in both places", lambda t, b: b["sample_token"] != t,
    ),
    (
        "unknown-category", "detection_name", "boxes of unknown classes",
        "write nuScenes' ten detection classes, such as traffic_cone",
        lambda t, b: b["detection_name"] not in DETECTION_CLASSES,
    ),
    (
        "unknown-attribute", "attribute_name", "boxes with unknown attributes",
        "write nuScenes' names, or nothing",
        lambda t, b: b["attribute_name"] not in KNOWN_ATTRIBUTES,
    ),
    (
        "no-rotation", "rotation", "rotations that are no unit quaternion",
        "write w, x, y, z of length one", lambda t, b: abs(math.hypot(*b["rotation"]) - 1) > NORM,
    ),
)  # fmt: skip


def to_sample(token: str, boxes: Sequence[Row]) -> Sample:
    """Boxes of a submission as they are, in the frame that they are written in."""
    names = tuple(box["detection_name"] for box in boxes)
    scores = np.array([box["detection_score"] for box in boxes], dtype=float)
    return Sample(token, official_numbers(boxes), names, scores)


def tokens(submission: Submission, index: NuScenesIndex) -> Iterable[Finding]:
    """Tokens of other databases, and samples of the split that are missing."""
    known, path = index.rows_by_token, submission.path
    unknown = [token for token in submission.boxes if token not in known]
    yield from gather(
        "error", "token-unknown", path, unknown, f"samples that {index.version} does not have",
        "is this the right database, or the right version of it?",
    )  # fmt: skip
    named = set(submission.boxes) & known.keys()
    everything = np.array([str(token, "utf-8") for token in index.sample_tokens])
    splits = {
        name: set(everything[index.rows(name)]) for name, scenes in index.splits.items() if scenes
    }
    splits["all samples"] = set(everything.tolist())
    covering = {name: members for name, members in splits.items() if named <= members}
    name = min(covering, key=lambda split: len(covering[split]))
    missing = sorted(covering[name] - named)
    yield from gather(
        "error", "token-missing", path, missing,
        f"samples of {name} without an entry, {len(missing)} of {len(covering[name])}",
        "the official evaluation wants every sample of the split, with an empty list if need be",
    )  # fmt: skip


def truth_samples(
    objects: JudgedObjects, index: NuScenesIndex, wanted: Iterable[str]
) -> list[Sample]:
    """The annotations of the samples in the global frame."""
    chosen = {index.rows_by_token[token]: token for token in wanted if token in index.rows_by_token}
    boxes = np.hstack(
        [
            objects.centres, objects.sizes[:, [1, 0, 2]], headings(objects.rotations)[:, None],
            objects.velocities,
        ]
    )  # fmt: skip
    samples = []
    for row, token in chosen.items():
        own = (objects.rows == row) & (objects.labels >= 0)
        names = tuple(DETECTION_CLASSES[label] for label in objects.labels[own])
        samples.append(Sample(token, boxes[own], names))
    return samples


def frame(
    samples: Sequence[Sample], truth: Sequence[Sample], index: NuScenesIndex, where: str
) -> Iterable[Finding]:
    """Whether boxes are in the global frame, by where they meet the annotations."""
    counts = {"global": len(match(samples, truth))}
    for name in ("car's", "lidar's"):
        counts[name] = len(match([moved(s, index, name) for s in samples], truth))
    best = max(counts, key=lambda name: counts[name])
    evidence = ", ".join(f"{count} read in the {name} frame" for name, count in counts.items())
    total = sum(len(sample.boxes) for sample in truth)
    if best != "global" and counts[best] >= max(3, 2 * counts["global"]):
        yield Finding(
            "error", "box-frame", where,
            f"boxes look like written in the {best} frame: of {total} annotated objects have a box "
            f"within 2 m: {evidence}",
            "a submission is in the global frame",
        )  # fmt: skip
    elif total >= 10 and counts[best] == 0 and any(len(s.boxes) for s in samples):
        yield Finding(
            "warning", "box-frame", where,
            f"no box meets one of {total} annotated objects ({evidence})",
            "is this the right database, and is the frame global?",
        )  # fmt: skip


def moved(sample: Sample, index: NuScenesIndex, name: str) -> Sample:
    """A sample as if its boxes were written in another frame than the global one."""
    if sample.token not in index.rows_by_token or not len(sample.boxes):
        return sample
    row = index.row(sample.token)
    pose: Array = index.global_from_ego[row]
    if name == "lidar's":
        ego_from_lidar = index.ego_from_ref[row] @ index.ref_from_lidar[row]
        pose = pose @ ego_from_lidar
    return Sample(sample.token, transform_boxes(pose, sample.boxes), sample.names, sample.scores)


def signature(
    submission: Submission, index: NuScenesIndex, objects: JudgedObjects
) -> Iterable[Finding]:
    """What the official errors say: mASE and mAOE of other conventions have a pattern."""
    results = {
        token: to_arrays(boxes)
        for token, boxes in submission.boxes.items()
        if token in index.rows_by_token
    }
    if not any(len(result) for result in results.values()):
        return
    summary, _ = array_metrics(index, objects, results)
    for note in wrong_conventions(summary):
        kind = "size-order" if note.startswith("length") else "yaw"
        yield Finding("error", kind, str(submission.path), f"by the official errors, {note}")


def to_arrays(boxes: Sequence[Row]) -> ResultArrays:
    """Boxes of a submission as the evaluation on arrays takes them, best score first."""
    ordered = sorted(boxes, key=lambda box: -box["detection_score"])

    def column(key: str, width: int) -> Array:
        return np.array([box[key] for box in ordered], dtype=float).reshape(-1, width)

    velocities = np.nan_to_num(column("velocity", 2))
    labels = [DETECTION_CLASSES.index(box["detection_name"]) for box in ordered]
    return ResultArrays(
        centres=column("translation", 3),
        sizes=np.clip(column("size", 3), 1e-3, None),
        rotations=column("rotation", 4),
        velocities=velocities,
        scores=column("detection_score", 1)[:, 0],
        labels=np.array(labels, dtype=np.int64),
        moving=np.linalg.norm(velocities, axis=1) > MOVING_SPEED,
    )  # fmt: skip
