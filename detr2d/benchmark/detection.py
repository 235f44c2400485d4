"""Benchmark cases of 2D detection: the trunk, DETR's inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from detr2d.benchmark.hugging_face import build_hugging_face_detr
from detr2d.benchmark.measure import Case, Contender, Duel, Setup
from detr2d.benchmark.subjects import DetectionSubject, make_subject
from detr2d.inference import prepare_inference
from detr2d.structures import Predictions
from detr2d.systems.detr import DETRConfig

SIZES = ((640, 640), (800, 1066))
EXACT, ROUNDED = 2e-3, 0.5
"""Largest difference of float32 and of bfloat16 programs, in standard deviations of the outputs."""


def trunk_duels(setup: Setup) -> Iterator[Duel]:
    """ResNet-50 with frozen norms, one 640 x 640 image: ours against torchvision's."""
    subject = make_subject(DETRConfig(), SIZES[0], images=1, objects=0, device=setup.device)
    peer = resnet50(norm_layer=FrozenBatchNorm2d)
    trunk = {name: tensor for name, tensor in subject.state.items() if name.startswith("backbone.")}
    head = {f"backbone.{name}": peer.state_dict()[name] for name in ("fc.weight", "fc.bias")}
    peer.load_state_dict({k.removeprefix("backbone."): v for k, v in {**trunk, **head}.items()})
    theirs = IntermediateLayerGetter(peer, {"layer4": "out"}).eval().to(setup.device)
    ours = (subject.model().eval().get_submodule("backbone") for _ in range(2))
    plain, rounded = (backbone.folded() for backbone in ours)  # type: ignore[operator]
    images = subject.images.contiguous(memory_format=torch.channels_last)
    rounded.to(torch.bfloat16)

    def last(output: Any) -> Mapping[str, Tensor]:
        return {"features": output.maps[-1]}

    yield Duel(
        "1x640x640",
        ours=(
            Contender("float32", without_gradients(lambda: plain(images)), last, EXACT),
            Contender("bfloat16", without_gradients(lambda: rounded(images)), last, ROUNDED),
        ),
        peers=tuple(
            Contender(f"torchvision {name}", run, lambda output: {"features": output["out"]}, limit)
            for name, run, limit in both_precisions(theirs, (subject.images.contiguous(),), setup)
        ),
    )


def inference_duels(setup: Setup) -> Iterator[Duel]:
    """DETR-R50 on one image, from normalised images (ours: from bytes) to logits and boxes."""
    for size in SIZES:
        subject = make_subject(DETRConfig(), size, images=1, objects=0, device=setup.device)
        peer = build_hugging_face_detr(subject).eval()
        inputs = (subject.images.contiguous(), (~subject.batch.padding).long())
        yield Duel(
            f"1x{size[0]}x{size[1]}",
            ours=(
                our_detector(subject, "float32", EXACT),
                our_detector(subject, "bfloat16", ROUNDED),
            ),
            peers=(
                *(
                    Contender(f"transformers {name}", run, hugging_face_outputs, limit)
                    for name, run, limit in both_precisions(peer, inputs, setup)
                ),
                *setup.extra_peers("detr.infer", subject),
            ),
        )


def our_detector(
    subject: DetectionSubject,
    precision: str,
    tolerance: float,
    outputs: Callable[[Any], Mapping[str, Tensor]] | None = None,
) -> Contender:
    """Our model as ``tools/evaluate.py`` and ``tools/predict.py`` run it."""
    predict = prepare_inference(subject.model(), precision, subject.device)
    run = without_gradients(lambda: predict(subject.batch))
    return Contender(precision, run, outputs or last_layer, tolerance)


def compiled_duels(setup: Setup) -> Iterator[Duel]:
    """``train.compiled`` against the same prepared model; compiling is not timed."""
    subject = make_subject(DETRConfig(), SIZES[0], images=1, objects=0, device=setup.device)
    for precision, tolerance in (("float32", EXACT), ("bfloat16", ROUNDED)):
        model = subject.model()
        predict = prepare_inference(model, precision, subject.device, compiled=True)
        program = without_gradients(partial(predict, subject.batch))
        yield Duel(
            f"1x{SIZES[0][0]}x{SIZES[0][1]}",
            ours=(Contender(f"{precision}, compiled", program, last_layer, tolerance),),
            peers=(our_detector(subject, precision, tolerance),),
        )


def last_layer(predictions: Predictions) -> Mapping[str, Tensor]:
    """Logits (B, Q, K + 1) and boxes (B, Q, 4) of the last layer."""
    return {"logits": predictions.logits[-1], "boxes": predictions.codes[-1]}


def hugging_face_outputs(output: Any) -> Mapping[str, Tensor]:
    """The same of transformers' output."""
    return {"logits": output.logits, "boxes": output.pred_boxes}


def both_precisions(
    model: nn.Module, inputs: tuple[Any, ...], setup: Setup
) -> Iterator[tuple[str, Callable[[], Any], float]]:
    """(name, program, tolerance) of a peer in float32 and under bfloat16 autocast."""
    yield "float32", without_gradients(lambda: model(*inputs)), EXACT

    def rounded() -> Any:
        with torch.autocast(setup.device.type, torch.bfloat16):
            return model(*inputs)

    yield "bfloat16", without_gradients(rounded), ROUNDED


def without_gradients(run: Callable[[], Any]) -> Callable[[], Any]:
    """The program under ``inference_mode``."""

    def program() -> Any:
        with torch.inference_mode():
            return run()

    return program


CASES = (
    Case("trunk.r50.fwd", "ResNet-50 with frozen norms, forward", trunk_duels),
    Case("detr.infer", "DETR-R50, one image", inference_duels),
    Case("compiled.detr", "DETR-R50 by train.compiled, which needs a compiler", compiled_duels),
)
