"""Denoising queries of 3D systems: noisy centres of the true objects, to be moved back.

Li et al., DN-DETR, CVPR 2022, in the form of PETRv2's released code: only the centre is noisy, the
query itself is that of any reference point, and a centre that is too far off becomes background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from det3d.boxes import MetricBox3D
from det3d.geometry import Region
from detr2d.criterion import mean_over_processes
from detr2d.losses import FocalClasses
from detr2d.structures import Batch, Predictions, Targets


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """Settings of denoising queries; the defaults are PETRv2's."""

    groups: int = 10
    """Noisy copies of every object."""
    noise: float = 1.0
    """Largest shift of the centre along each axis, in half sizes of the box."""
    background_from: float = 0.75
    """Shifts (their length in half sizes) beyond this are to be called background."""
    weight: float = 1.0
    """Weight of the losses."""


@dataclass(frozen=True)
class NoisyObjects(Batch):
    """N = groups * objects noisy centres as P leading queries of each of B scenes.

    reference (B, P, 3) in the unit cube, zeros where a scene has fewer objects; scenes, places
    (N,): the scene of each and its place among the P; labels (N,), K for background; boxes (N, 9)
    without noise; blocked (P + Q, P + Q) bool: True where a query (row) may not look at another.
    """

    reference: Tensor
    scenes: Tensor
    places: Tensor
    labels: Tensor
    boxes: Tensor
    blocked: Tensor


@dataclass(frozen=True)
class Denoised(Batch):
    """What all layers say about the noisy objects, and what is true.

    logits (L, N, K), codes (L, N, 10), labels (N,), boxes (N, 9).
    """

    logits: Tensor
    codes: Tensor
    labels: Tensor
    boxes: Tensor


def draw_noise(targets: Sequence[Targets], groups: int) -> Tensor:
    """Uniform numbers (groups * objects of all scenes, 3) in [-1, 1), group by group."""
    count = groups * sum(len(target) for target in targets)
    return 2 * torch.rand(count, 3, device=targets[0].boxes.device) - 1


def noisy_objects(
    targets: Sequence[Targets],
    noise: Tensor,
    *,
    config: DenoisingConfig,
    region: Region,
    num_queries: int,
    num_classes: int,
) -> NoisyObjects:
    """Place every object of every group, with its ``noise`` (N, 3), before ``num_queries`` others.

    As released, the shift runs along the axes of the ref frame by half the width, length and
    height, whatever the heading.
    """
    device = noise.device
    counts = [len(target) for target in targets]
    most, groups = max(counts), config.groups
    pairs = [(scene, place) for scene, count in enumerate(counts) for place in range(count)]
    at = torch.tensor(pairs, dtype=torch.long).view(-1, 2).to(device, non_blocking=True)
    scenes, within = at.unbind(1)
    group = torch.arange(groups, device=device).repeat_interleave(len(scenes))
    scenes, places = scenes.repeat(groups), within.repeat(groups) + most * group
    boxes = torch.cat([target.boxes for target in targets]).repeat(groups, 1)
    labels = torch.cat([target.labels for target in targets]).repeat(groups)
    length, width, height = boxes[:, 3:6].unbind(1)
    sizes = torch.stack([width, length, height], dim=1)
    centres = boxes[:, :3] + config.noise * noise * 0.5 * sizes
    reference = boxes.new_zeros(len(counts), most * groups, 3)
    reference[scenes, places] = region.to_unit(centres).clamp(0, 1)
    lost = noise.norm(dim=-1) > config.background_from
    return NoisyObjects(
        reference=reference,
        scenes=scenes,
        places=places,
        labels=labels.masked_fill(lost, num_classes),
        boxes=boxes,
        blocked=blocked_between(most, groups, num_queries, device),
    )


def blocked_between(group_size: int, groups: int, num_queries: int, device: torch.device) -> Tensor:
    """Attention mask (P + Q, P + Q): groups see themselves and queries, queries only queries."""
    owner = torch.arange(groups, device=device).repeat_interleave(group_size)
    owner = torch.cat([owner, owner.new_full((num_queries,), -1)])
    return (owner.unsqueeze(0) != owner.unsqueeze(1)) & (owner.unsqueeze(0) >= 0)


P = TypeVar("P", bound=Predictions)


def split_predictions(predictions: P, noisy: NoisyObjects) -> tuple[P, Denoised]:
    """Take the answers about noisy objects away from those of the system's own queries."""
    count = noisy.reference.shape[1]
    where = (noisy.scenes, noisy.places)
    denoised = Denoised(
        logits=predictions.logits[:, where[0], where[1]],
        codes=predictions.codes[:, where[0], where[1]],
        labels=noisy.labels,
        boxes=noisy.boxes,
    )
    references = predictions.references
    own = replace(
        predictions,
        logits=predictions.logits[:, :, count:],
        codes=predictions.codes[:, :, count:],
        references=None if references is None else references[:, :, count:],
    )
    return own, denoised


class DenoisingLoss:
    """Focal class loss and L1 of the codes of noisy objects; rotation entries count nothing.

    Classes are divided by the expected number of objects that stay objects: the share of the cube
    of noise that lies within ``background_from``. The L1 covers background too, as released.
    """

    terms = ("denoising_class", "denoising_l1")

    def __init__(
        self, config: DenoisingConfig, *, classes: FocalClasses, codec: MetricBox3D,
        class_weight: float, l1_weight: float,
    ) -> None:  # fmt: skip
        self.classes = classes
        self.weights = {
            "denoising_class": config.weight * class_weight,
            "denoising_l1": config.weight * l1_weight,
        }
        self.share = math.pi / 6 * config.background_from**3
        rotation_free = [*codec.weights[:6], 0.0, 0.0, *codec.weights[8:]]
        self.codec = MetricBox3D(tuple(rotation_free))

    def __call__(self, denoised: Denoised) -> dict[str, Tensor]:
        """Weighted scalar losses; the last layer's bare names, ``layer0/...`` for the others."""
        num_layers, count = denoised.logits.shape[:2]
        number = mean_over_processes(denoised.logits.new_full((), count))
        labels = denoised.labels.expand(num_layers, 1, -1)
        sure = (self.share * number).clamp(min=1)
        classes = self.classes.losses(denoised.logits.unsqueeze(1), labels, sure)
        targets = self.codec.encode(denoised.boxes).expand(num_layers, -1, -1)
        distance = self.codec.losses(denoised.codes, targets)["l1"].sum(1) / number.clamp(min=1)
        values = {"denoising_class": classes, "denoising_l1": distance}
        return {
            name if layer == num_layers - 1 else f"layer{layer}/{name}": self.weights[name] * value
            for name, each in values.items()
            for layer, value in enumerate(each.unbind(0))
        }
