"""From an official 3D case to our batch, and from official settings to our parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from det3d.cameras import CameraRig
from det3d.checkpoints.mmdet3d import boxes_from_released
from det3d.structures import SceneBatch
from detr2d.backbones.resnet import ResNetConfig
from detr2d.backbones.vovnet import VoVNetConfig
from detr2d.checkpoints.rename import convert
from detr2d.config import Criterion, SystemConfig
from detr2d.criterion import SetCriterion
from detr2d.images import Normalization, NormalizeImages
from detr2d.parity.fixtures import Case, Fixture, read_arrays
from detr2d.structures import Targets, pad_stack

OUTPUT_TOLERANCE = 1e-4
NOISE_FACTOR = 20  # times the float32 noise that each case records


@dataclass(frozen=True)
class Subject:
    """Our counterpart of one variant with the weights of one case."""

    fixture: Fixture
    system: SystemConfig
    model: nn.Module
    criterion: Criterion
    set_loss: SetCriterion


def make_subject(fixture: Fixture, case: Case, system: SystemConfig) -> Subject:
    """Our model with the case's weights, converted as a user's checkpoint would be.

    Its input is normalised already. Raises MisfitError if keys or shapes do not fit.
    """
    classes = tuple(fixture.config["class_names"])
    model = system.build(classes)
    weights = fixture.fill["fill_state_dict"](fixture.manifest, int(case.arrays["salt"]))
    model.load_state_dict(convert(weights, system.official_table(), model.state_dict()))
    model.normalize = NormalizeImages((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    criterion = system.build_criterion(classes)
    set_loss: Any = getattr(criterion, "set_loss", criterion)
    return Subject(fixture, system, model.eval(), criterion, set_loss)


def read_cases(fixture: Fixture) -> list[Case]:
    """The cases of a directory, in order of their names."""
    paths = sorted(fixture.folder.glob("case_*.npz"))
    if not paths:
        raise FileNotFoundError(f"{fixture.folder} holds no case_*.npz")
    return [Case(path.stem, read_arrays(path), {}) for path in paths]


def make_batch(subject: Subject, case: Case) -> SceneBatch:
    """The case's images, cameras and targets in our conventions.

    The official matrices project in one step, so they stand in for the pose of each camera and the
    intrinsics are the identity. They become float32, as our data sets give them.
    """
    arrays = case.arrays
    scenes, cameras = int(arrays["batch"]), int(arrays["num_views"])
    size, canvas = arrays["img_hw"].tolist(), arrays["pad_hw"].tolist()
    images = subject.fixture.fill["make_images_3d"](
        [tuple(size)] * (scenes * cameras), int(arrays["img_seed"])
    )
    padded = pad_stack([*images, torch.zeros(3, *canvas)])[:-1]
    lead = (scenes, cameras)
    projections = torch.stack([torch.from_numpy(a).float() for a in of_scenes(case, "lidar2img")])
    rig = CameraRig(
        intrinsics=torch.eye(3).expand(*lead, 3, 3),
        camera_from_ref=projections,
        image_sizes=torch.tensor(size, dtype=torch.float32).expand(*lead, 2),
        present=torch.ones(lead, dtype=torch.bool),
        timestamps=times_of(case),
    )
    return SceneBatch(
        images=padded.unflatten(0, lead),
        rig=rig,
        tokens=tuple(str(scene) for scene in range(scenes)),
        targets=tuple(
            Targets(torch.from_numpy(labels), boxes_from_released(torch.from_numpy(boxes)))
            for labels, boxes in zip(
                of_scenes(case, "gt_labels"), of_scenes(case, "gt_boxes_gravity"), strict=True
            )
        ),
    )


def of_scenes(case: Case, name: str) -> list[np.ndarray]:
    """The array ``name`` of each scene of a case."""
    return [case.arrays[f"{name}_{scene}"] for scene in range(int(case.arrays["batch"]))]


def times_of(case: Case) -> Tensor:
    """Times (B, V) of the images; official ones count back from the lidar's."""
    if "timestamp_0" in case.arrays:
        return -torch.from_numpy(np.stack(of_scenes(case, "timestamp")))
    lead = (int(case.arrays["batch"]), int(case.arrays["num_views"]))
    return torch.zeros(lead, dtype=torch.float64)


def make_backbone(config: Mapping[str, Any]) -> ResNetConfig | VoVNetConfig:
    """Our backbone for the official settings ``backbone`` and ``neck``.

    Stages that the neck does not look at are left out.
    """
    official, neck = config["backbone"], config["neck"] or {}
    if official["kind"] == "vovnet":
        stages = tuple(int(name.removeprefix("stage")) - 1 for name in official["out_features"])
        return VoVNetConfig(
            widths=tuple(official["stage_conv_channels"]),
            channels=tuple(official["stage_out_channels"]),
            repeats=tuple(official["blocks_per_stage"]),
            depth=official["layers_per_block"],
            stem=official["stem"][0],
            out_stages=stages[neck.get("start_level", 0) :],
            frozen_stages=max(0, official["frozen_stages"]),
        )
    flags = official["dcn_v2_stages"] or [False] * 4
    return ResNetConfig(
        depth=official["depth"],
        layout="caffe" if official["style"] == "caffe" else "torchvision",
        deformable_stages=tuple(stage for stage, flag in enumerate(flags, start=1) if flag),
        out_stages=tuple(i + 1 for i in official["out_indices"])[neck.get("start_level", 0) :],
        frozen_stages=max(0, official["frozen_stages"]),
    )


def make_normalization(config: Mapping[str, Any]) -> Normalization:
    """Our normalisation for the official setting ``image``."""
    image = config["image"]
    return Normalization(
        mean=tuple(image["mean"]),
        std=tuple(image["std"]),
        channels="rgb" if image["to_rgb"] else "bgr",
    )


def find_pose(fixture: Fixture) -> Mapping[str, np.ndarray]:
    """The arrays of ops3d/real_frame.npz, whose pose all cases share.

    Raises FileNotFoundError if it is neither beside the directory nor beside the recipe.
    """
    places = [fixture.folder.resolve().parent, Path(fixture.fill["__file__"]).resolve().parent]
    for place in places:
        if (place / "ops3d" / "real_frame.npz").is_file():
            return read_arrays(place / "ops3d" / "real_frame.npz")
    raise FileNotFoundError(f"no ops3d/real_frame.npz beside {fixture.folder}")
