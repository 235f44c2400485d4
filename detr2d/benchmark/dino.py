"""Benchmark cases of DINO: inference and training steps against its plain formulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from detr2d.benchmark.detection import ROUNDED, our_detector, without_gradients
from detr2d.benchmark.measure import Case, Contender, Duel, Setup
from detr2d.benchmark.plain import with_plain_operators
from detr2d.benchmark.steps import STEP_LIMITS, our_step, predictor
from detr2d.benchmark.subjects import make_subject
from detr2d.structures import Predictions
from detr2d.systems.dino import DINOConfig

SIZE, OBJECTS = (480, 640), 7
SETTING = f"1x{SIZE[0]}x{SIZE[1]}"
REORDERED = 0.1
"""Limit of scores in float32: proposals that change places get each other's query contents."""


def inference_duels(setup: Setup) -> Iterator[Duel]:
    """DINO-4scale R50 from bytes to logits and boxes."""
    subject = make_subject(DINOConfig(), SIZE, images=1, objects=0, device=setup.device)
    plain = subject.model().eval()
    yield Duel(
        SETTING,
        ours=(
            our_detector(subject, "float32", REORDERED, ranked),
            our_detector(subject, "bfloat16", ROUNDED, ranked),
        ),
        peers=(
            Contender(
                "plain float32",
                with_plain_operators(without_gradients(predictor(plain, subject, "float32"))),
                ranked,
            ),
            *setup.extra_peers("dino.infer", subject),
        ),
    )


def ranked(predictions: Predictions) -> Mapping[str, Tensor]:
    """The scores of the last layer's queries, best first.

    Rounding decides the order of proposals of almost the same score, so queries cannot be compared
    one by one.
    """
    scores = predictions.logits[-1].amax(-1)
    return {"logits": scores.sort(descending=True).values}


def step_duels(setup: Setup) -> Iterator[Duel]:
    """Forward with denoising, losses of all layers and gradients of all trained weights."""
    subject = make_subject(DINOConfig(), SIZE, images=1, objects=OBJECTS, device=setup.device)
    steps = {name: our_step(subject, name) for name in STEP_LIMITS}
    yield Duel(
        SETTING,
        ours=tuple(Contender(name, run, dict, STEP_LIMITS[name]) for name, run in steps.items()),
        peers=(
            Contender("plain float32", with_plain_operators(steps["float32"]), dict),
            *setup.extra_peers("dino.train", subject),
        ),
    )


CASES = (
    Case("dino.infer", "DINO-4scale R50, one image", inference_duels),
    Case("dino.train", "DINO-4scale R50, forward, loss, backward", step_duels),
)
