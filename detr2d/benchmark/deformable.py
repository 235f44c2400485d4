"""Benchmark cases of Deformable DETR: inference, and the gradients of a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from detr2d.benchmark.detection import (
    EXACT,
    ROUNDED,
    both_precisions,
    hugging_face_outputs,
    last_layer,
    our_detector,
    without_gradients,
)
from detr2d.benchmark.hugging_face import build_hugging_face_deformable
from detr2d.benchmark.measure import Case, Contender, Duel, Setup
from detr2d.benchmark.plain import GRID_SAMPLE, with_plain_operators
from detr2d.benchmark.steps import STEP_LIMITS, hugging_face_steps, our_step, predictor
from detr2d.benchmark.subjects import make_subject
from detr2d.deformable import DeformableConfig
from detr2d.systems.deformable_detr import DeformableDETRConfig

SIZE, IMAGES, OBJECTS = (640, 640), 2, 7
SYSTEM = DeformableDETRConfig(transformer=DeformableConfig(dropout=0.0))
"""The paper's with four levels; without dropout, else programs cannot be compared."""
WEIGHTS = {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
"""Our weights of transformers' losses."""


def inference_duels(setup: Setup) -> Iterator[Duel]:
    """From normalised images (ours: from bytes) to logits and boxes."""
    subject = make_subject(SYSTEM, SIZE, images=IMAGES, objects=0, device=setup.device)
    peer = build_hugging_face_deformable(subject).eval()
    inputs = (subject.images.contiguous(), (~subject.batch.padding).long())
    core = subject.model().eval()
    yield Duel(
        f"{IMAGES}x{SIZE[0]}x{SIZE[1]}",
        ours=(our_detector(subject, "float32", EXACT), our_detector(subject, "bfloat16", ROUNDED)),
        peers=(
            *(
                Contender(f"transformers {name}", run, hugging_face_outputs, limit)
                for name, run, limit in both_precisions(peer, inputs, setup)
            ),
            *(
                Contender(
                    f"grid_sample core {name}",
                    with_grid_sample(without_gradients(predictor(core, subject, name))),
                    last_layer,
                    limit,
                )
                for name, limit in (("float32", EXACT), ("bfloat16", ROUNDED))
            ),
            *setup.extra_peers("deformable.infer", subject),
        ),
    )


def with_grid_sample(run: Callable[[], Any]) -> Callable[[], Any]:
    """The program with the original's core in pure PyTorch instead of our operator."""
    return with_plain_operators(run, (GRID_SAMPLE,))


def step_duels(setup: Setup) -> Iterator[Duel]:
    """Forward, losses of all layers and gradients of all trained weights."""
    subject = make_subject(SYSTEM, SIZE, images=IMAGES, objects=OBJECTS, device=setup.device)
    ours = {name: our_step(subject, name) for name in STEP_LIMITS}
    peer = build_hugging_face_deformable(subject, auxiliary_loss=True, dropout=0.0)
    theirs = hugging_face_steps(peer, subject, WEIGHTS)
    yield Duel(
        f"{IMAGES}x{SIZE[0]}x{SIZE[1]}",
        ours=tuple(Contender(name, run, dict, STEP_LIMITS[name]) for name, run in ours.items()),
        peers=(
            *(
                Contender(f"transformers {name}", run, dict, STEP_LIMITS[name])
                for name, run in theirs.items()
            ),
            Contender(
                "grid_sample core float32",
                with_grid_sample(ours["float32"]),
                dict,
                STEP_LIMITS["float32"],
            ),
            *setup.extra_peers("deformable.train", subject),
        ),
    )


CASES = (
    Case("deformable.infer", "Deformable DETR-R50, two images", inference_duels),
    Case("deformable.train", "Deformable DETR-R50, forward, loss, backward", step_duels),
)
