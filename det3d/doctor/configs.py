"""What can be wrong with an experiment: its data, its splits, and how they fit its system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from det3d.data.nuscenes import NuScenesConfig
from det3d.doctor.nuscenes import examine_database
from detr2d.checkpoints.files import read_origin
from detr2d.config import DataConfig, Experiment
from detr2d.data.coco import CocoConfig
from detr2d.data.panoptic import CocoPanopticConfig
from detr2d.doctor.coco_folder import Part, examine_parts
from detr2d.doctor.findings import Finding, attempt, gather, has_errors
from detr2d.doctor.images import Look, shared_pictures


def examine_experiment(experiment: Experiment, where: str) -> list[Finding]:
    """Everything that is wrong with the data of an experiment, and with building its system."""
    findings = examine_data(experiment.data)
    if experiment.train.start_from is not None:
        findings += attempt(
            "start-from", where, lambda: read_origin(Path(str(experiment.train.start_from)))
        )
    if not has_errors(findings):
        findings += attempt("no-sample", where, lambda: first_samples(experiment))
        findings += attempt("no-system", where, lambda: build(experiment))
    return findings


def first_samples(experiment: Experiment) -> None:
    """Load the first sample of training and of evaluation. Raises ValueError if there is none."""
    data = experiment.data
    training, evaluation = data.training_set(experiment.train.seed), data.evaluation_set()
    for name, dataset in (("training", training), ("evaluation", evaluation)):
        if not len(dataset):  # type: ignore[arg-type]
            raise ValueError(f"the {name} set has no samples")
        data.collate([dataset[0]])


def build(experiment: Experiment) -> None:
    """Build the system without memory."""
    with torch.device("meta"):
        experiment.system.build(experiment.data.class_names())


def examine_data(data: DataConfig) -> list[Finding]:
    """The data sets of an experiment, by their kind; of others only the first samples count."""
    if isinstance(data, CocoConfig):
        return examine_coco(data)
    if isinstance(data, CocoPanopticConfig):
        return examine_coco_panoptic(data)
    return examine_nuscenes(data) if isinstance(data, NuScenesConfig) else []


def examine_coco(data: CocoConfig) -> list[Finding]:
    """Both instance files with their images."""
    return examine_both(
        Part(data.root / data.training_annotations, data.root / data.training_images),
        Part(data.root / data.evaluation_annotations, data.root / data.evaluation_images),
    )


def examine_coco_panoptic(data: CocoPanopticConfig) -> list[Finding]:
    """Both panoptic files with their images and maps."""
    return examine_both(
        Part(
            data.root / data.training_annotations,
            data.root / data.training_images,
            data.root / data.training_maps,
        ),
        Part(
            data.root / data.evaluation_annotations,
            data.root / data.evaluation_images,
            data.root / data.evaluation_maps,
        ),
    )


def examine_both(training: Part, evaluation: Part) -> list[Finding]:
    """A training and an evaluation file, which must not be the same."""
    if training.path.resolve() != evaluation.path.resolve():
        return examine_parts([training, evaluation])
    said = "training and evaluation read the same annotations"
    leak = Finding("error", "leakage", str(training.path), said, "evaluate on other images")
    return [*examine_parts([training]), leak]


def examine_nuscenes(data: NuScenesConfig) -> list[Finding]:
    """The databases of training and evaluation, their splits and cameras, and what they share."""
    here = (data.root, data.version)
    there = (data.training_root or data.root, data.training_version or data.version)
    findings, looks = examine_database(*here)
    theirs = looks
    if there != here:
        others, theirs = examine_database(*there)
        findings += others
    if not has_errors(findings):
        where = str(data.root)
        findings += attempt("no-split", where, data.evaluation_set)
        findings += attempt("no-split", where, lambda: data.training_set(0))
    if has_errors(findings):
        return findings
    training = chosen(replace(data, root=there[0], version=there[1]), data.training_split)
    evaluation = chosen(data, data.evaluation_split)
    names = str(data.root) if there == here else f"{there[0] / there[1]} and {here[0] / here[1]}"
    findings += gather(
        "error", "leakage", names, sorted(training.keys() & evaluation.keys()),
        "samples of training that are evaluated too",
        "data.training_split and data.evaluation_split must share no scene",
    )  # fmt: skip
    if there != here and not has_errors(findings):
        findings += shared_pictures(of(theirs, training), of(looks, evaluation), names)
    return findings


def chosen(data: NuScenesConfig, split: str | tuple[str, ...]) -> dict[str, set[str]]:
    """The image files of each sample of a split, by its token."""
    index = data.open_index()
    return {
        str(index.sample_tokens[row], "utf-8"): {str(f, "utf-8") for f in index.image_files[row]}
        for row in index.rows(split).tolist()
    }


def of(looks: Sequence[Look], samples: Mapping[str, set[str]]) -> list[Look]:
    """The looks at the images of some samples."""
    files = {file for names in samples.values() for file in names}
    return [look for look in looks if look.wanted.name in files]
