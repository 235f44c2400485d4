"""The peers' weights are ours: every key is filled, and the outputs agree."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("timm")

from detr2d.benchmark.detection import EXACT, ROUNDED, hugging_face_outputs, our_detector
from detr2d.benchmark.hugging_face import build_hugging_face_detr
from detr2d.benchmark.measure import Contender, check_outputs
from detr2d.benchmark.subjects import make_subject
from detr2d.systems.detr import DETRConfig


@pytest.mark.slow
def test_transformers_gives_our_outputs_and_trains_the_same_parameters() -> None:
    subject = make_subject(
        DETRConfig(), (128, 160), images=1, objects=0, device=torch.device("cpu")
    )
    peer = build_hugging_face_detr(subject).eval()
    inputs = (subject.images, (~subject.batch.padding).long())
    with torch.inference_mode():
        theirs = Contender("peer", lambda: peer(*inputs), hugging_face_outputs)
        ours = (our_detector(subject, "float32", EXACT), our_detector(subject, "bfloat16", ROUNDED))
        check_outputs("title", (theirs, *ours))
    counts = [
        sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "bn" not in n)
        for model in (peer, subject.model())
    ]
    assert counts[0] == counts[1]
