"""Contrastive denoising: noised copies of the objects join the queries in training.

DINO (Zhang et al., ICLR 2023), section 3.3. Every group repeats all objects of an image twice:
positives, slightly noised, have to find their object again; negatives, noised more, have to say
that there is none. Which query belongs to which object is known, so nothing is matched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detr2d.boxes import from_corners, to_corners
from detr2d.criterion import SetCriterion
from detr2d.decoder import inverse_sigmoid
from detr2d.matching import Matches
from detr2d.structures import (
    Batch,
    DenoisingPredictions,
    Predictions,
    Targets,
    pad_stack,
)


@dataclass(frozen=True)
class Layout:
    """How denoising queries are ordered: (groups, positives then negatives, objects).

    objects is that of the image with most; images with fewer leave slots empty.
    """

    groups: int
    objects: int

    @property
    def num_queries(self) -> int:
        """Denoising queries of an image."""
        return 2 * self.groups * self.objects


@dataclass(frozen=True)
class Draws(Batch):
    """Random numbers for B images, R = 2 * groups repeats, T objects.

    flip (B, R, T) and part (B, R, T, 4) in [0, 1); label (B, R, T) int64; sign (B, R, T, 4) of
    -1 or 1.
    """

    flip: Tensor
    label: Tensor
    sign: Tensor
    part: Tensor


@dataclass(frozen=True)
class DenoisingQueries(Batch):
    """Queries (B, N, C) and reference logits (B, N, 4) of noised boxes; zero in empty slots."""

    query: Tensor
    reference: Tensor
    layout: Layout


class ContrastiveDenoising(nn.Module):
    """Makes denoising queries: contents embed noised labels, references are noised boxes.

    About 2 * ``count`` queries an image are shared among as many groups as fit. A label is
    replaced by a random one with probability ``label_noise`` / 2; a corner moves by up to
    ``box_noise`` / 2 of the box's size for positives, and by one to two times that for negatives.
    ``eps`` limits the logits of references.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        *,
        count: int = 100,
        label_noise: float = 0.5,
        box_noise: float = 0.4,
        eps: float = 1e-3,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.labels = nn.Embedding(num_classes + 1, channels)  # one more, as the released code
        self.count = count
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.eps = eps

    def forward(self, targets: Sequence[Targets]) -> DenoisingQueries:
        """Denoising queries of B images with boxes (T, 4): centre and size in [0, 1]."""
        layout = self.layout(targets)
        shape = (len(targets), 2 * layout.groups, layout.objects)
        return self.noised(targets, layout, self.draw(shape, self.labels.weight.device))

    def layout(self, targets: Sequence[Targets]) -> Layout:
        """As many groups as the count allows, at least one.

        As in the released code, counts below 50 are a number of groups instead: twice the count.
        """
        objects = max((len(target) for target in targets), default=0)
        doubled = 2 * self.count
        if objects and doubled >= 100:
            return Layout(max(1, doubled // (2 * objects)), objects)
        return Layout(max(1, doubled) if objects else 1, objects)

    def draw(self, shape: tuple[int, int, int], device: torch.device) -> Draws:
        """Random numbers for (images, repeats, objects)."""
        return Draws(
            flip=torch.rand(shape, device=device),
            label=torch.randint(self.num_classes, shape, device=device),
            sign=torch.randint(2, (*shape, 4), device=device) * 2 - 1,
            part=torch.rand((*shape, 4), device=device),
        )

    def noised(self, targets: Sequence[Targets], layout: Layout, draws: Draws) -> DenoisingQueries:
        """Denoising queries made with given random numbers."""
        labels = pad_stack([target.labels for target in targets]).unsqueeze(1)  # (B, 1, T)
        boxes = pad_stack([target.boxes for target in targets]).unsqueeze(1)
        there = pad_stack([torch.ones_like(target.labels) for target in targets]).bool()
        there = there[:, None, :, None]  # (B, 1, T, 1)
        labels = torch.where(draws.flip < self.label_noise / 2, draws.label, labels)
        negative = torch.arange(2 * layout.groups, device=boxes.device) % 2
        moves = draws.sign * (draws.part + negative.view(-1, 1, 1)) * self.box_noise
        half = boxes[..., 2:].repeat(1, 1, 1, 2) / 2
        corners = (to_corners(boxes) + moves * half).clamp(0, 1)
        reference = inverse_sigmoid(from_corners(corners), self.eps)
        query = self.labels(labels) * there
        return DenoisingQueries(
            query.flatten(1, 2), reference.where(there, 0.0).flatten(1, 2), layout
        )


def denoising_mask(layout: Layout, num_matching: int, device: torch.device) -> Tensor:
    """Who must not look at whom: (N + Q, N + Q) bool, denoising queries first, True = hidden.

    Groups see themselves and the matching queries; matching queries see no denoising query.
    """
    queries = torch.arange(layout.num_queries + num_matching, device=device)
    group = queries // max(1, 2 * layout.objects)
    group = group.masked_fill(queries >= layout.num_queries, -1)
    return (group >= 0) & (group != group.unsqueeze(1))


def known_matches(layout: Layout, counts: Sequence[int], num_layers: int) -> Matches:
    """The positives of all groups and layers with their objects, on the CPU."""
    found = [
        torch.stack(torch.meshgrid(
            torch.arange(num_layers), torch.tensor([image]), torch.arange(layout.groups),
            torch.arange(count), indexing="ij",
        )).flatten(1)
        for image, count in enumerate(counts)
    ]  # fmt: skip
    layer, image, group, instance = torch.cat(found, dim=1).unbind(0)
    return Matches(layer, image, group * 2 * layout.objects + instance, instance)


def split_denoising(predictions: Predictions, layout: Layout) -> Predictions:
    """Predictions of the matching queries, those of the denoising queries before them set apart."""
    count, points = layout.num_queries, predictions.sampling_points
    references = predictions.references
    return replace(
        predictions,
        logits=predictions.logits[:, :, count:],
        codes=predictions.codes[:, :, count:],
        references=None if references is None else references[:, :, count:],
        sampling_points=None if points is None else points[:, :, count:],
        denoising=DenoisingPredictions(
            predictions.logits[:, :, :count],
            predictions.codes[:, :, :count],
            layout.groups,
            layout.objects,
        ),
    )


class DenoisingLoss:
    """Losses of a set criterion for denoising queries, whose matches are known.

    Divided by the number of objects times that of groups.
    """

    def __init__(self, set_loss: SetCriterion) -> None:
        self.set_loss = set_loss

    def __call__(
        self, predictions: DenoisingPredictions, targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """Weighted scalar losses by name, all zero where there is no object."""
        layout = Layout(predictions.groups, predictions.objects)
        counts = [len(target) for target in targets]
        matches = known_matches(layout, counts, len(predictions.logits))
        return self.set_loss.losses(
            predictions.logits,
            predictions.codes,
            self.set_loss.stack(targets),
            matches.to(predictions.logits.device, non_blocking=True),
            self.set_loss.count(targets, predictions.logits) * layout.groups,
        )
