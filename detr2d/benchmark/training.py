"""Benchmark cases of 2D training: the criterion alone, and a step of DETR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from detr2d.benchmark.hugging_face import build_hugging_face_detr
from detr2d.benchmark.measure import Case, Contender, Duel, Setup
from detr2d.benchmark.steps import STEP_LIMITS, hugging_face_steps, our_step
from detr2d.benchmark.subjects import make_subject, noise_batch
from detr2d.structures import ImageBatch, Predictions
from detr2d.systems.detr import DETRConfig
from detr2d.transformer import TransformerConfig

EXACT = 1e-3
LAYERS, QUERIES = 6, 100


def criterion_duels(setup: Setup) -> Iterator[Duel]:
    """Matching, losses of six layers and their gradients: ours against transformers'."""
    for images, objects in ((2, 7), (8, 7), (8, 20)):
        torch.manual_seed(0)
        batch = noise_batch((64, 64), images=images, objects=objects).to(setup.device)
        logits = torch.randn(LAYERS, images, QUERIES, 92, device=setup.device, requires_grad=True)
        raw = torch.randn(LAYERS, images, QUERIES, 4, device=setup.device, requires_grad=True)
        criterion = DETRConfig().build_criterion(tuple(str(n) for n in range(91)))

        def ours(
            logits: Tensor = logits,
            raw: Tensor = raw,
            batch: ImageBatch = batch,
            criterion: Any = criterion,
        ) -> list[Tensor]:
            losses = criterion(Predictions(logits, raw.sigmoid()), batch.targets)
            loss = torch.stack(list(losses.values())).sum()
            return [loss.detach(), *torch.autograd.grad(loss, (logits, raw))]

        def theirs(
            logits: Tensor = logits, raw: Tensor = raw, batch: ImageBatch = batch
        ) -> list[Tensor]:
            loss = hugging_face_loss(logits, raw.sigmoid(), batch)
            return [loss.detach(), *torch.autograd.grad(loss, (logits, raw))]

        yield Duel(
            f"{LAYERS} layers x {images} images x {QUERIES} queries, {objects} objects",
            ours=(Contender("forward + backward", ours, _named, EXACT),),
            peers=(Contender("transformers", theirs, _named),),
        )


def _named(values: list[Tensor]) -> Mapping[str, Tensor]:
    return dict(zip(("loss", "d logits", "d boxes"), values, strict=True))


def hugging_face_loss(logits: Tensor, boxes: Tensor, batch: ImageBatch) -> Tensor:
    """DETR's loss of all layers as transformers computes it; (L, B, Q, K + 1), (L, B, Q, 4)."""
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    settings = SimpleNamespace(
        class_cost=1, bbox_cost=5, giou_cost=2, num_labels=91, eos_coefficient=0.1,
        auxiliary_loss=True, bbox_loss_coefficient=5, giou_loss_coefficient=2,
        decoder_layers=len(logits),
    )  # fmt: skip
    labels = [
        {"class_labels": target.labels, "boxes": target.boxes} for target in batch.targets or ()
    ]
    loss, _, _ = ForObjectDetectionLoss(
        logits[-1], labels, logits.device, boxes[-1], settings, logits, boxes
    )
    return loss


def step_duels(setup: Setup) -> Iterator[Duel]:
    """Two 640 x 640 images; without dropout, else programs cannot be compared."""
    system = DETRConfig(transformer=TransformerConfig(dropout=0.0))
    subject = make_subject(system, (640, 640), images=2, objects=7, device=setup.device)
    peer = build_hugging_face_detr(subject, auxiliary_loss=True, dropout=0.0)
    theirs = hugging_face_steps(peer, subject, {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0})
    yield Duel(
        "2x640x640",
        ours=tuple(
            Contender(name, our_step(subject, name), dict, limit)
            for name, limit in STEP_LIMITS.items()
        ),
        peers=(
            *(
                Contender(f"transformers {name}", run, dict, STEP_LIMITS[name])
                for name, run in theirs.items()
            ),
            *setup.extra_peers("detr.train", subject),
        ),
    )


CASES = (
    Case("criterion.detr", "DETR's matching and losses, forward and backward", criterion_duels),
    Case("detr.train", "DETR-R50, forward, loss, backward", step_duels),
)
