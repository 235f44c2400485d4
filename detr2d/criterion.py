"""The set loss: match every layer's predictions to the objects, then train what was matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from detr2d.accumulation import Divisor
from detr2d.boxes import BoxCodec
from detr2d.matching import Matches, match
from detr2d.structures import Batch, MaskPredictions, Predictions, Targets, pad_stack


class ClassTerm(Protocol):
    """A classification cost and loss, see ``detr2d.losses``; the label K means "no object"."""

    def num_classes(self, width: int) -> int:
        """Number of classes K that ``width`` logits tell apart."""

    def costs(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Costs (..., Q, T)."""

    def losses(self, logits: Tensor, labels: Tensor, num_objects: Tensor) -> Tensor:
        """Normalised losses (L,); ``num_objects`` () is averaged over processes, at least one."""

    def divisor(self, objects: Divisor, matched: int, unmatched: int) -> Divisor:
        """What losses are divided by, for so many queries with and without an object."""


class MaskTerm(Protocol):
    """Mask losses by term, see ``detr2d.losses``."""

    terms: tuple[str, ...]

    def losses(self, logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Losses by term (M,) of mask logits (M, h, w) against masks (M, H, W) bool."""


@dataclass(frozen=True)
class StackedTargets(Batch):
    """Targets of B images, padded to T objects: labels (B, T), codes (B, T, D), true counts."""

    labels: Tensor
    codes: Tensor
    counts: tuple[int, ...]


class SetCriterion:
    """Set prediction loss (DETR, section 3.1) over all decoder layers at once.

    ``cost`` and ``loss`` weigh the terms by name: ``"class"``, those of the codec and, for
    ``loss``, those of ``masks``, which only the last layer has. Every layer is matched on its own.
    Box and mask terms are divided by the number of objects, averaged over processes and at least
    one; class terms normalise themselves. The targets' boxes are encoded by the codec.
    """

    def __init__(
        self,
        *,
        classes: ClassTerm,
        codec: BoxCodec,
        cost: Mapping[str, float],
        loss: Mapping[str, float],
        masks: MaskTerm | None = None,
    ) -> None:
        compared = {"class", *codec.terms}
        trained = compared | set(masks.terms if masks is not None else ())
        for name, weights, expected in (("cost", cost, compared), ("loss", loss, trained)):
            if set(weights) != expected:
                raise ValueError(
                    f"{name} weights must name exactly {sorted(expected)}, got {sorted(weights)}"
                )
        self.classes = classes
        self.codec = codec
        self.masks = masks
        self.cost = dict(cost)
        self.loss = dict(loss)

    def __call__(self, predictions: Predictions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Weighted scalar losses; the last layer's bare names, ``layer0/class`` ... for the others.

        Their sum is what is trained. Raises ValueError if targets and predictions differ in number.
        """
        logits = predictions.logits
        num_images = logits.shape[1]
        if len(targets) != num_images:
            raise ValueError(f"{num_images} images need as many targets, got {len(targets)}")
        stacked, num_objects = self.stack(targets), self.count(targets, logits)
        matches = match(self._costs(predictions, stacked), stacked.counts)
        weighted = self.losses(logits, predictions.codes, stacked, matches, num_objects)
        if self.masks is not None:
            pairs = last_layer(matches, stacked.counts, logits.shape[2])
            found = self._mask_losses(predictions.masks, pairs, targets)
            weighted |= {
                name: self.loss[name] * values.sum() / num_objects for name, values in found.items()
            }
        return weighted

    def count(self, targets: Sequence[Targets], like: Tensor) -> Tensor:
        """Number () of objects, averaged over processes, at least one; type and device ``like``."""
        return count_objects(targets, like).value()

    def divisors(self, predictions: Predictions, batch: Any) -> dict[str, Divisor]:
        """What each term of a batch is divided by; ``predictions`` tell the number of queries."""
        num_queries = predictions.logits.shape[2]
        matched = sum(min(len(target), num_queries) for target in batch.targets)
        unmatched = num_queries * len(batch.targets) - matched
        objects = count_objects(batch.targets, predictions.logits)
        terms = (*self.codec.terms, *(self.masks.terms if self.masks is not None else ()))
        classes = self.classes.divisor(objects, matched, unmatched)
        return {"class": classes, **dict.fromkeys(terms, objects)}

    def losses(
        self,
        logits: Tensor,
        codes: Tensor,
        stacked: StackedTargets,
        matches: Matches,
        num_objects: Tensor,
    ) -> dict[str, Tensor]:
        """Weighted scalar losses of given matches, by layer and term, without those of masks.

        logits (L, B, Q, K) and codes (L, B, Q, D); queries that nothing is matched with have to
        say "no object".
        """
        num_layers = len(logits)
        where = (matches.layers, matches.images, matches.queries)
        which = (matches.images, matches.objects)
        no_object = self.classes.num_classes(logits.shape[-1])
        labels = stacked.labels.new_full(logits.shape[:3], no_object)
        labels[where] = stacked.labels[which]
        losses = {"class": self.classes.losses(logits, labels, num_objects)}  # each (L,)
        for name, values in self.codec.losses(codes[where], stacked.codes[which]).items():
            sums = values.new_zeros(num_layers).index_add(0, matches.layers, values)
            losses[name] = sums / num_objects
        return {
            name if layer == num_layers - 1 else f"layer{layer}/{name}": value
            for name, values in losses.items()
            for layer, value in enumerate((self.loss[name] * values).unbind(0))
        }

    def match(self, predictions: Predictions, targets: Sequence[Targets]) -> Matches:
        """The pairs that are trained, of all layers and images, in this order."""
        return match(self.costs(predictions, targets), [len(target) for target in targets])

    def costs(self, predictions: Predictions, targets: Sequence[Targets]) -> Tensor:
        """Weighted matching costs (L, B, Q, T); columns beyond an image's objects mean nothing."""
        return self._costs(predictions, self.stack(targets))

    def stack(self, targets: Sequence[Targets]) -> StackedTargets:
        """Targets as tensors, their boxes as codes."""
        return StackedTargets(
            labels=pad_stack([target.labels for target in targets]),
            codes=self.codec.encode(pad_stack([target.boxes for target in targets], fill=1)),
            counts=tuple(len(target) for target in targets),
        )

    @torch.no_grad()
    def _costs(self, predictions: Predictions, stacked: StackedTargets) -> Tensor:
        costs = self.codec.costs(predictions.codes, stacked.codes)
        costs["class"] = self.classes.costs(predictions.logits, stacked.labels)
        return torch.stack([self.cost[name] * cost for name, cost in costs.items()]).sum(0)

    def _mask_losses(
        self, masks: MaskPredictions | None, pairs: Matches, targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """Mask losses (M,) of matched pairs of the last layer."""
        if self.masks is None or masks is None:
            raise ValueError("mask losses need a system that predicts masks")
        flat = torch.cat([masks_on_canvas(target, masks.canvas) for target in targets])
        starts = torch.tensor([0, *(len(target) for target in targets[:-1])]).cumsum(0)
        starts = starts.to(pairs.objects, non_blocking=True)
        objects = starts[pairs.images] + pairs.objects
        return self.masks.losses(masks.logits[pairs.images, pairs.queries], flat[objects])


def last_layer(matches: Matches, counts: Sequence[int], num_queries: int) -> Matches:
    """Pairs of the last layer, which come last; their number is known without asking the device."""
    first = len(matches) - sum(min(count, num_queries) for count in counts)
    return Matches(
        matches.layers[first:],
        matches.images[first:],
        matches.queries[first:],
        matches.objects[first:],
    )


def masks_on_canvas(target: Targets, canvas: tuple[int, int]) -> Tensor:
    """Masks (T, H, W) of one image, empty beyond its valid area.

    Raises ValueError if the target has no masks or they are larger than the canvas.
    """
    height, width = canvas
    if target.masks is None:
        raise ValueError("mask losses need targets with masks, got boxes only")
    missing = (height - target.masks.shape[1], width - target.masks.shape[2])
    if min(missing) < 0:
        size = tuple(target.masks.shape[1:])
        raise ValueError(f"target masks of {size} pixels exceed their canvas of {canvas}")
    return F.pad(target.masks, (0, missing[1], 0, missing[0]))


def cardinality_error(predictions: Predictions, targets: Sequence[Targets]) -> Tensor:
    """Mean absolute error (L,) of the number of objects that each layer claims; a log, no loss.

    As in DETR's released code a query claims an object if its last logit is not the largest: with
    a softmax over K + 1 that is the "no object" logit, with sigmoid classes it means little.
    """
    logits = predictions.logits
    claimed = (logits.argmax(-1) != logits.shape[-1] - 1).sum(-1)  # (L, B)
    counts = torch.tensor([len(target) for target in targets])
    counts = counts.to(logits.device, non_blocking=True)
    return (claimed - counts).abs().float().mean(-1)


def class_error(predictions: Predictions, targets: Sequence[Targets], matches: Matches) -> Tensor:
    """Percentage () of the last layer's matched queries with a wrong best class; 100 of none."""
    logits = predictions.logits[-1]
    pairs = last_layer(matches, [len(target) for target in targets], logits.shape[1])
    labels = pad_stack([target.labels for target in targets])[pairs.images, pairs.objects]
    right = logits[pairs.images, pairs.queries].argmax(-1) == labels
    return 100 - 100 * right.float().sum() / max(len(pairs), 1)


def count_objects(targets: Sequence[Targets], like: Tensor) -> Divisor:
    """The number of objects, averaged over processes; type and device ``like``."""
    number = like.new_full((), sum(len(target) for target in targets))
    return Divisor(mean_over_processes(number))


def mean_over_processes(value: Tensor) -> Tensor:
    """Average a tensor over all processes of a distributed run; itself in a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()
