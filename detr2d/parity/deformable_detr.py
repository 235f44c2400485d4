"""Parity of Deformable DETR with fundamentalvision/Deformable-DETR."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from detr2d.backbones.resnet import ResNetConfig
from detr2d.deformable import DeformableConfig
from detr2d.losses import FocalClasses
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
    run_double,
    targets_of,
)
from detr2d.parity.detr import BOX_LOSSES, DEPTHS
from detr2d.parity.fixtures import Case, Fixture, Section
from detr2d.parity.gradients import check_gradients
from detr2d.parity.ledger import Ledger, Line
from detr2d.parity.two_stage import (
    check_stage,
    check_top_detections,
    pyramid_finder,
    pyramid_names,
    run_as_chosen,
)
from detr2d.proposals import as_objects
from detr2d.systems.deformable_detr import DeformableDETRConfig

USED = "backbone|dilation|hidden_dim|nheads|dim_feedforward|dropout|enc_layers|dec_layers"
USED += "|num_queries|num_feature_levels|dec_n_points|with_box_refine|two_stage"


def check_deformable_detr(fixture: Fixture) -> Iterator[Section]:
    """All comparisons of one variant: settings first, then case by case."""
    subject = make_subject(fixture)
    yield check_settings(subject)
    for case in fixture.cases():
        yield Section(case.name, check_case(subject, case))


def make_subject(fixture: Fixture) -> Subject:
    """Our system for the official settings, with the fixture's weights."""
    args = fixture.config["args"]
    system = make_system(args)
    criterion = system.build_criterion(class_names(fixture))
    loss = criterion.set_loss.loss
    return Subject(
        fixture=fixture,
        system=system,
        model=load_weights(system, fixture),
        criterion=criterion,
        set_loss=criterion.set_loss,
        loss_names=BOX_LOSSES,
        num_layers=args["dec_layers"],
        target_classes=91,
        settings=focal_settings(criterion.set_loss) | {"args/enc_n_points": args["dec_n_points"]},
        used=f"args/({USED})",
        more_weights={f"{official}_enc": loss[ours] for official, ours in BOX_LOSSES.items()},
    )


def focal_settings(set_loss: Any) -> dict[str, Any]:
    """Our values of the official settings of matching and losses."""
    focal: FocalClasses = set_loss.classes
    return {
        "focal_alpha": focal.alpha,
        "losses": ["labels", "boxes", "cardinality"],
        "args/focal_alpha": focal.alpha,
        "args/set_cost_class": set_loss.cost["class"],
        "args/set_cost_bbox": set_loss.cost["l1"],
        "args/set_cost_giou": set_loss.cost["giou"],
        "args/cls_loss_coef": set_loss.loss["class"],
        "args/bbox_loss_coef": set_loss.loss["l1"],
        "args/giou_loss_coef": set_loss.loss["giou"],
        "args/aux_loss": True,
        "args/masks": False,
        "args/position_embedding": "sine",
    }


def make_system(args: Mapping[str, Any]) -> DeformableDETRConfig:
    """Our settings from official ones."""
    levels = args["num_feature_levels"]
    backbone = ResNetConfig(
        depth=DEPTHS[args["backbone"]],
        out_stages=(4,) if levels == 1 else (2, 3, 4),
        dilate_last=args["dilation"],
        frozen_stages=1 if args["lr_backbone"] > 0 else 4,
    )
    transformer = DeformableConfig(
        channels=args["hidden_dim"],
        heads=args["nheads"],
        points=args["dec_n_points"],
        hidden=args["dim_feedforward"],
        dropout=args["dropout"],
        encoder_layers=args["enc_layers"],
        decoder_layers=args["dec_layers"],
    )
    return DeformableDETRConfig(
        backbone=backbone,
        extra_levels=levels - len(backbone.out_stages),
        transformer=transformer,
        num_queries=args["num_queries"],
        refine_boxes=args["with_box_refine"],
        two_stage=args["two_stage"],
    )


def check_case(subject: Subject, case: Case) -> list[Line]:
    """Lines on everything that a case holds."""
    ledger = Ledger(case.official)
    batch = make_batch(subject, case)
    run = run_as_chosen(subject, case, batch)
    ledger.skip("case", "what inputs are made from")
    check_inputs(ledger, batch)
    check_probes(ledger, probe_names(subject, run), probe_finder(subject, run))
    check_outputs(ledger, case, run.predictions)
    check_losses(ledger, subject, run)
    check_matches(ledger, subject, run)
    double = run_double(subject, batch)
    two_stage = subject.fixture.config["args"]["two_stage"]
    if two_stage:
        targets = as_objects(targets_of(batch))
        check_stage(ledger, subject, case, (run, double), "enc", targets)
    check_gradients(
        ledger, subject, run, double, lambda: run_as_chosen(subject, case, batch).gradients
    )
    check_top_detections(ledger, subject, case, run)
    check_double(ledger, case, double)
    ledger.skip("spread|post_topk_min_gap_per_image", "statistics of outputs that are compared")
    ledger.skip("(forward|backward)_seconds", "speed of the machine that made the case")
    return ledger.finish()


def probe_names(subject: Subject, run: Run) -> list[str]:
    """Official modules whose outputs every case holds."""
    args = subject.fixture.config["args"]
    bodies = [f"backbone.0.body/{level}" for level in range(len(run.captured["backbone"]))]
    proposals = ["transformer.enc_output_norm", "transformer.pos_trans_norm"]
    return [
        *bodies,
        *pyramid_names(subject, run),
        *(proposals if args["two_stage"] else []),
        *(f"transformer.decoder.layers.{layer}" for layer in range(args["dec_layers"])),
    ]


def probe_finder(subject: Subject, run: Run) -> Callable[[str], Tensor]:
    """Our module outputs by official name, in the official layout."""
    find_in_pyramid = pyramid_finder(subject, run)

    def find(name: str) -> Tensor:
        if name.startswith("transformer.decoder.layers."):
            return run.captured[f"decoder.{name.rsplit('.', 1)[1]}"][0]
        if name == "transformer.pos_trans_norm":
            return run.captured["queries.norm"]
        return find_in_pyramid(name)

    return find
