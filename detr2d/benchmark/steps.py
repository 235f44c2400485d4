"""Training steps to time: forward, losses of all layers, gradients of all trained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detr2d.benchmark.subjects import DetectionSubject, Subject
from detr2d.inference import with_precision

STEP_LIMITS = {"float32": 2e-3, "bfloat16": 0.1}
"""Largest relative difference of the loss and of the gradients' norm."""

Step = Callable[[], Mapping[str, Tensor]]


def predictor(model: nn.Module, subject: Subject[Any], precision: str) -> Callable[[], Any]:
    """The plain model on the subject's images, under autocast if asked."""
    predict = with_precision(model, precision, subject.device)
    return lambda: predict(subject.batch)


def our_step(subject: Subject[Any], precision: str) -> Step:
    """Our training step as the engine does it, up to the optimizer."""
    return training_step(subject.model(), subject, precision)


def training_step(model: nn.Module, subject: Subject[Any], precision: str) -> Step:
    """The same of a given model."""
    model.train()
    predict = predictor(model, subject, precision)
    criterion = subject.system.build_criterion(subject.classes)

    def loss() -> Tensor:
        return torch.stack(list(criterion(predict(), subject.batch.targets or ()).values())).sum()

    return lambda: gradient_step(model, loss)


def hugging_face_steps(
    peer: nn.Module, subject: DetectionSubject, weights: Mapping[str, float]
) -> dict[str, Step]:
    """The same of a model of transformers by precision.

    ``weights`` are ours of its losses, by how their names begin; it has to give those of all layers
    (``auxiliary_loss``).
    """
    peer.train()
    inputs = (subject.images.contiguous(), (~subject.batch.padding).long())
    targets = subject.batch.targets or ()
    labels = [{"class_labels": target.labels, "boxes": target.boxes} for target in targets]

    def loss(rounded: bool) -> Tensor:
        with torch.autocast(subject.device.type, torch.bfloat16, enabled=rounded):
            found = peer(*inputs, labels=labels).loss_dict
        terms = [
            weight * value
            for start, weight in weights.items()
            for name, value in found.items()
            if name.startswith(start)
        ]
        return torch.stack(terms).sum()

    return {
        "float32": lambda: gradient_step(peer, lambda: loss(False)),
        "bfloat16": lambda: gradient_step(peer, lambda: loss(True)),
    }


def gradient_step(model: nn.Module, loss: Callable[[], Tensor]) -> Mapping[str, Tensor]:
    """The loss, and the norm of the gradients of all trained weights."""
    torch.manual_seed(0)  # every program draws the same denoising noise
    model.zero_grad(set_to_none=True)
    value = loss()
    value.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return {"loss": value.detach().float(), "gradient norm": norm.float()}
