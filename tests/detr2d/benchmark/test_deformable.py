"""Programs of Deformable DETR do the same work: peers with our weights, the core exchanged."""

from __future__ import annotations

import pytest
import torch

from detr2d import deformable
from detr2d.benchmark.deformable import SYSTEM, WEIGHTS, with_grid_sample
from detr2d.benchmark.hugging_face import build_hugging_face_deformable
from detr2d.benchmark.measure import Contender, check_outputs
from detr2d.benchmark.steps import STEP_LIMITS, hugging_face_steps, our_step
from detr2d.benchmark.subjects import make_subject
from detr2d.ops.sampling_torch import sample_and_sum


def test_the_core_is_exchanged_while_a_program_runs_and_put_back() -> None:
    ours = deformable.multi_scale_deformable_attention
    assert ours is not sample_and_sum
    run = with_grid_sample(lambda: deformable.multi_scale_deformable_attention)
    assert run() is sample_and_sum
    assert deformable.multi_scale_deformable_attention is ours


@pytest.mark.slow
def test_transformers_has_our_losses_and_gradients() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    subject = make_subject(SYSTEM, (128, 160), images=1, objects=3, device=torch.device("cpu"))

    peer = build_hugging_face_deformable(subject, auxiliary_loss=True, dropout=0.0)
    theirs = hugging_face_steps(peer, subject, WEIGHTS)["float32"]
    ours = (
        Contender(name, our_step(subject, name), dict, limit) for name, limit in STEP_LIMITS.items()
    )
    check_outputs("title", (Contender("transformers", theirs, dict), *ours))
