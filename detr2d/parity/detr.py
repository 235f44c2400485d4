"""Parity of DETR and panoptic DETR with facebookresearch/detr."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from detr2d.backbones.resnet import ResNetConfig
from detr2d.boxes import to_pixels
from detr2d.images import resize_padding
from detr2d.losses import SoftmaxClasses
from detr2d.parity.detection import (
    Run,
    Subject,
    check_double,
    check_inputs,
    check_losses,
    check_matches,
    check_outputs,
    check_probes,
    check_settings,
    class_names,
    load_weights,
    make_batch,
    run_case,
    run_double,
    tolerance,
)
from detr2d.parity.fixtures import Case, Fixture, Section
from detr2d.parity.gradients import check_gradients
from detr2d.parity.ledger import Ledger, Line, agree_up_to_ties
from detr2d.parity.masks import check_masks, check_panoptic
from detr2d.systems.detr import DETRConfig
from detr2d.systems.panoptic import PanopticDETRConfig
from detr2d.transformer import TransformerConfig

BOX_LOSSES = {"loss_ce": "class", "loss_bbox": "l1", "loss_giou": "giou"}
MASK_LOSSES = {"loss_mask": "mask", "loss_dice": "dice"}
DEPTHS: dict[str, Any] = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}
USED = "backbone|dilation|hidden_dim|nheads|dim_feedforward|dropout|enc_layers|dec_layers"
USED += "|num_queries|pre_norm|position_embedding"


def check_detr(fixture: Fixture) -> Iterator[Section]:
    """All comparisons of one DETR variant: settings first, then case by case."""
    subject = make_subject(fixture)
    yield check_settings(subject)
    for case in fixture.cases():
        yield Section(case.name, check_case(subject, case))


def make_subject(fixture: Fixture) -> Subject:
    """Our system for the official settings, with the fixture's weights."""
    args = fixture.config["args"]
    system = make_system(args)
    criterion = system.build_criterion(class_names(fixture))
    softmax = criterion.classes
    if not isinstance(softmax, SoftmaxClasses):
        raise TypeError("DETR is trained with softmax classes")
    masks = bool(args["masks"])
    settings = {
        "eos_coef": softmax.no_object_weight,
        "losses": ["labels", "boxes", "cardinality", *(["masks"] if masks else [])],
        "args/eos_coef": softmax.no_object_weight,
        "args/set_cost_class": criterion.cost["class"],
        "args/set_cost_bbox": criterion.cost["l1"],
        "args/set_cost_giou": criterion.cost["giou"],
        "args/bbox_loss_coef": criterion.loss["l1"],
        "args/giou_loss_coef": criterion.loss["giou"],
        "args/mask_loss_coef": criterion.loss.get("mask", 1.0),
        "args/dice_loss_coef": criterion.loss.get("dice", 1.0),
        "args/aux_loss": True,
        "args/masks": criterion.masks is not None,
    }
    return Subject(
        fixture=fixture,
        system=system,
        model=load_weights(system, fixture),
        criterion=criterion,
        set_loss=criterion,
        loss_names={**BOX_LOSSES, **MASK_LOSSES} if masks else BOX_LOSSES,
        num_layers=args["dec_layers"],
        target_classes=201 if masks else 91,
        settings=settings,
        used=f"args/({USED})",
        last_only=tuple(MASK_LOSSES.values()),
        with_masks=masks,
    )


def make_system(args: Mapping[str, Any]) -> DETRConfig | PanopticDETRConfig:
    """Our settings from official ones."""
    backbone = ResNetConfig(
        depth=DEPTHS[args["backbone"]],
        out_stages=(1, 2, 3, 4) if args["masks"] else (4,),
        dilate_last=args["dilation"],
        frozen_stages=1 if args["lr_backbone"] > 0 else 4,
    )
    transformer = TransformerConfig(
        channels=args["hidden_dim"],
        heads=args["nheads"],
        hidden=args["dim_feedforward"],
        dropout=args["dropout"],
        encoder_layers=args["enc_layers"],
        decoder_layers=args["dec_layers"],
        num_queries=args["num_queries"],
        norm="pre" if args["pre_norm"] else "post",
    )
    kind = PanopticDETRConfig if args["masks"] else DETRConfig
    return kind(backbone=backbone, transformer=transformer, positions=args["position_embedding"])


def check_case(subject: Subject, case: Case) -> list[Line]:
    """Lines on everything that a case holds."""
    ledger = Ledger(case.official)
    batch = make_batch(subject, case)
    run = run_case(subject, batch)
    ledger.skip("case", "what inputs are made from")
    check_inputs(ledger, batch)
    check_probes(ledger, probe_names(subject, run), probe_finder(subject, run))
    check_outputs(ledger, case, run.predictions)
    check_losses(ledger, subject, run)
    check_matches(ledger, subject, run)
    double = run_double(subject, batch)
    check_gradients(ledger, subject, run, double, lambda: run_case(subject, batch).gradients)
    check_boxes(ledger, subject, case, run)
    if subject.with_masks:
        check_masks(ledger, run, tolerance(case, "pred_masks"))
        check_panoptic(ledger, subject.system, run, tolerance(case, "pred_masks"))
    check_double(ledger, case, double)
    ledger.skip("spread", "statistics of outputs that are compared one by one")
    ledger.skip("(forward|backward)_seconds", "speed of the machine that made the case")
    return ledger.finish()


def probe_names(subject: Subject, run: Run) -> list[str]:
    """Official modules whose outputs every case holds."""
    args = subject.fixture.config["args"]
    levels = range(len(run.captured["backbone"]))
    names = [
        *(f"backbone.0.body/{level}" for level in levels),
        *(f"backbone.0/{level}" for level in levels),
        *(f"backbone.1/call{level}" for level in levels),
        "input_proj",
        *(f"transformer.encoder.layers.{layer}" for layer in range(args["enc_layers"])),
        *(f"transformer.decoder.layers.{layer}" for layer in range(args["dec_layers"])),
        "transformer.decoder.norm",
    ]
    return [*(f"detr.{n}" for n in names), "bbox_attention"] if subject.with_masks else names


def probe_finder(subject: Subject, run: Run) -> Callable[[str], Tensor]:
    """Our module outputs by official name, in the official layout (tokens first)."""
    captured, padding = run.captured, run.batch.padding

    def find(name: str) -> Tensor:
        name = name.removeprefix("detr.")
        if match := re.fullmatch(r"backbone\.0(?:\.body)?/(\d)", name):
            return captured["backbone"].maps[int(match[1])]
        if match := re.fullmatch(r"backbone\.1/call(\d)", name):
            level = captured["backbone"].maps[int(match[1])]
            positions = subject.model.get_submodule("positions")
            embedding = positions(resize_padding(padding, *level.shape[-2:]))
            return embedding.permute(0, 3, 1, 2)
        if match := re.fullmatch(r"transformer\.encoder\.layers\.(\d)", name):
            return captured[name].transpose(0, 1)
        if match := re.fullmatch(r"transformer\.decoder\.layers\.(\d)", name):
            return captured[f"transformer.decoder.{match[1]}"][0].transpose(0, 1)
        if name == "transformer.decoder.norm":
            return captured["transformer.decoder_norm"].transpose(0, 1)
        if name == "input_proj":
            return captured["projection"]
        if name == "bbox_attention":
            return captured["attention_maps"].unflatten(-1, captured["projection"].shape[-2:])
        raise KeyError(f"no module of ours is known for {name}")

    return find


def check_boxes(ledger: Ledger, subject: Subject, case: Case, run: Run) -> None:
    """Lines on scores, labels and boxes in pixels after post-processing."""
    allowed = tolerance(case, "pred_logits")
    sizes = run.batch.original_sizes
    for image, found in enumerate(subject.system.postprocess(run.predictions)):
        order = found.queries.argsort()  # the official code leaves results in query order
        probability = run.predictions.logits[-1, image].softmax(-1)[:, :-1]
        boxes = to_pixels(found.boxes[order], sizes[image])
        key = f"post/{image}/"
        ledger.close(key + "scores", found.scores[order], atol=allowed)
        ledger.close(
            key + "boxes", boxes, atol=tolerance(case, "pred_boxes") * float(sizes[image].max())
        )
        labels = found.labels[order]
        line = partial(_label_line, ledger, key + "labels", labels, probability, allowed)
        ledger.judge(key + "labels", line)


def _label_line(
    ledger: Ledger, key: str, ours: Tensor, probability: Tensor, allowed: float
) -> Line:
    """Labels may differ where the official class is as probable as ours."""
    official = ledger.take(key)
    index = torch.from_numpy(official).clamp(0, probability.shape[1] - 1).unsqueeze(1)
    tied = probability.max(1).values - probability.gather(1, index).squeeze(1) <= allowed
    return agree_up_to_ties(key, ours, official, tied)
