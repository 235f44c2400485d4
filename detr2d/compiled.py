"""Prediction by compiled programs: ``train.compiled``.

On a CPU, ``torch.compile`` turns a model into C++; on a GPU it also records CUDA graphs, so that a
whole forward pass is one launch (not yet measured on a GPU). A program serves one shape, so images
are padded to the next of a few canvases.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from detr2d.structures import Predictions, map_tensors

STEP = 128
"""Canvases of images of unequal sizes are multiples of this, in pixels."""
MOST_PROGRAMS = 64
"""Shapes that are compiled; later ones run as they are."""

Predict = Callable[[Any], Predictions]


def compile_prediction(
    predict: Predict, device: torch.device, *, backend: str | Callable[..., Any] = "inductor"
) -> Predict:
    """``predict`` as compiled programs, one for each canvas and number of images.

    The first batch of every shape takes as long as compiling does, minutes for large models. On the
    same canvas outputs are those of ``predict`` up to rounding. Padding is masked, as in batches of
    unequal images, but convolutions near the border see it. Raises ValueError if what compiles is
    missing.
    """
    if backend == "inductor":
        check_compiler(device)
    graphs = device.type == "cuda" and backend == "inductor"
    mode = "reduce-overhead" if graphs else None
    program = torch.compile(predict, dynamic=False, backend=backend, mode=mode)

    def compiled(batch: Any) -> Predictions:
        padded = batch.on_canvas(STEP)
        # Names and targets would make a program for every batch.
        plain = replace(padded, tokens=("",) * len(batch), targets=None)
        with torch._dynamo.config.patch(recompile_limit=MOST_PROGRAMS):
            found = program(plain)
        # The next replay of a graph writes to the same memory.
        return map_tensors(found, torch.clone) if graphs else found

    return compiled


def check_compiler(device: torch.device) -> None:
    """Raise ValueError in one line if torch could not compile for ``device``."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise ValueError(
                "train.compiled needs Triton on a GPU: pip install triton, or leave it off"
            )
        return
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise ValueError(
            f"train.compiled needs a C++ compiler on a CPU, and {compiler} is not found: install "
            "it, name another one in CXX, or leave train.compiled off"
        )
