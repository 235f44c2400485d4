"""Parity of DINO with IDEA-Research/DINO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from detr2d.backbones.resnet import ResNetConfig
from detr2d.backbones.swin import SwinConfig
from detr2d.checkpoints.rename import rename
from detr2d.criterion import cardinality_error
from detr2d.deformable import DeformableConfig
from detr2d.denoising import ContrastiveDenoising, Layout, known_matches
from detr2d.matching import Matches
from detr2d.parity.deformable_detr import focal_settings
from detr2d.parity.detection import (
    LOSS_TOLERANCE,
    Run,
    Subject,
    check_double,
    check_inputs,
    check_losses,
    check_matches,
    check_output,
    check_outputs,
    check_probes,
    check_settings,
    class_names,
    load_weights,
    make_batch,
    run_double,
    targets_of,
    tolerance,
)
from detr2d.parity.detr import BOX_LOSSES, DEPTHS
from detr2d.parity.fixtures import Case, Fixture, Section
from detr2d.parity.gradients import GRADIENT_TOLERANCE, check_gradients
from detr2d.parity.ledger import Ledger, Line, compare, same
from detr2d.parity.two_stage import (
    check_stage,
    check_top_detections,
    pyramid_finder,
    pyramid_names,
    run_as_chosen,
)
from detr2d.proposals import grid_anchors, take_rows
from detr2d.structures import Predictions, Targets
from detr2d.systems.dino import DenoisingConfig, DINOConfig

SWIN = {"swin_L_384_22k": SwinConfig()}
LABELS = "denoising.labels.weight"
USED = "backbone|hidden_dim|nheads|dim_feedforward|dropout|enc_layers|dec_layers|num_queries"
USED += "|num_feature_levels|dec_n_points|return_interm_indices|num_select|num_classes"
USED += "|dn_(number|label_noise_ratio|box_noise_scale)"
OURS = {  # official settings that name what our DINO always does
    "add_channel_attention": False, "add_pos_value": False, "batch_norm_type": "FrozenBatchNorm2d",
    "decoder_layer_noise": False, "decoder_module_seq": ["sa", "ca", "ffn"],
    "decoder_sa_type": "sa", "dec_pred_bbox_embed_share": True, "dec_pred_class_embed_share": True,
    "dilation": False, "embed_init_tgt": True, "fix_refpoints_hw": -1, "masks": False,
    "num_patterns": 0, "pe_temperatureH": 20, "pe_temperatureW": 20, "pre_norm": False,
    "query_dim": 4, "transformer_activation": "relu", "two_stage_type": "standard",
    "two_stage_bbox_embed_share": False, "two_stage_class_embed_share": False,
    "two_stage_default_hw": 0.05, "two_stage_learn_wh": False, "two_stage_keep_all_tokens": False,
    "two_stage_add_query_num": 0, "two_stage_pat_embed": 0, "unic_layers": 0, "use_dn": True,
    "use_deformable_box_attn": False, "use_detached_boxes_dec_out": False,
    "matcher_type": "HungarianMatcher", "nms_iou_threshold": -1, "no_interm_box_loss": False,
    "interm_loss_coef": 1.0, "enc_loss_coef": 1.0,
}  # fmt: skip
UNUSED = "backbone_freeze_keywords|box_attn_type|dabdetr_.*|ddetr_lr_param|dec_layer_number|dln_.*"
UNUSED += "|ema_.*|use_ema|match_unstable_error|modelname|multi_step_lr|onecyclelr|param_dict_type"
UNUSED += "|pdetr3_.*|random_refpoints_xy|save_checkpoint_interval|use_checkpoint"


def check_dino(fixture: Fixture) -> Iterator[Section]:
    """All comparisons of one variant: settings first, then case by case."""
    subject = make_subject(fixture)
    yield check_settings(subject)
    for case in fixture.cases():
        with torch.set_grad_enabled("grad_norms" in case.facts):  # Swin-L's graph is large
            lines = check_case(subject, case)
        yield Section(case.name, lines)


def make_subject(fixture: Fixture) -> Subject:
    """Our system for the official settings, with the fixture's weights."""
    args = fixture.config["args"]
    system = make_system(args)
    criterion = system.build_criterion(class_names(fixture))
    set_loss = criterion.stages.set_loss
    model = load_weights(system, fixture)
    suffixes = ["_interm", "_dn", *(f"_dn_{layer}" for layer in range(args["dec_layers"] - 1))]
    return Subject(
        fixture=fixture,
        system=system,
        model=model,
        criterion=criterion,
        set_loss=set_loss,
        loss_names=BOX_LOSSES,
        num_layers=args["dec_layers"],
        target_classes=91,
        settings={
            **focal_settings(set_loss),
            **{f"args/{name}": value for name, value in OURS.items()},
            "args/enc_n_points": args["dec_n_points"],
            "args/dn_labelbook_size": model.get_parameter(LABELS).shape[0] - 1,
        },
        used=f"args/({USED}|{UNUSED})",
        more_weights={
            official + suffix: set_loss.loss[ours]
            for suffix in suffixes
            for official, ours in BOX_LOSSES.items()
        },
    )


def make_system(args: Mapping[str, Any]) -> DINOConfig:
    """Our settings from official ones."""
    stages = tuple(index + 1 for index in args["return_interm_indices"])
    name = args["backbone"]
    backbone = (
        replace(SWIN[name], out_stages=stages)
        if name in SWIN
        else ResNetConfig(depth=DEPTHS[name], out_stages=stages, frozen_stages=1)
    )
    return DINOConfig(
        backbone=backbone,
        extra_levels=args["num_feature_levels"] - len(stages),
        transformer=DeformableConfig(
            channels=args["hidden_dim"],
            heads=args["nheads"],
            points=args["dec_n_points"],
            hidden=args["dim_feedforward"],
            dropout=args["dropout"],
            encoder_layers=args["enc_layers"],
            decoder_layers=args["dec_layers"],
        ),
        num_queries=args["num_queries"],
        num_detections=args["num_select"],
        denoising=DenoisingConfig(
            count=args["dn_number"],
            label_noise=args["dn_label_noise_ratio"],
            box_noise=args["dn_box_noise_scale"],
        ),
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
    check_anchors(ledger, case, run)
    check_losses(ledger, subject, run)
    check_box_parts(ledger, subject, run)
    check_matches(ledger, subject, run)
    if "dn" in case.facts:
        check_denoising(ledger, subject, case, run)
    double = run_double(subject, batch)
    check_stage(ledger, subject, case, (run, double), "interm", list(targets_of(batch)))
    if "grad_norms" in case.facts:  # the label embedding's official gradient is zero, not missing
        single, exact = (replace(r, gradients=label_norms(r)) for r in (run, double))
        check_gradients(
            ledger,
            subject,
            single,
            exact,
            lambda: label_norms(run_as_chosen(subject, case, batch)),
        )
    check_top_detections(ledger, subject, case, run)
    check_double(ledger, case, double)
    ledger.skip("spread|post_topk_min_gap_per_image", "statistics of outputs that are compared")
    ledger.skip("(forward|backward)_seconds", "speed of the machine that made the case")
    return ledger.finish()


def label_norms(run: Run) -> dict[str, float]:
    """Norms of a run without denoising, with the label embedding's, which is zero."""
    return {**run.gradients, LABELS: 0.0}


def check_anchors(ledger: Ledger, case: Case, run: Run) -> None:
    """Line on the anchors that the chosen proposals start from."""
    anchors = grid_anchors(run.captured["encoder"]).logits
    chosen = take_rows(anchors, run.captured["queries.proposals"].chosen).sigmoid()
    key = "out/interm_outputs_for_matching_pre/pred_boxes"
    ledger.close(key, chosen, atol=tolerance(case, "pred_boxes"))


def box_parts(
    predictions: Predictions, targets: tuple[Targets, ...], matches: Matches
) -> dict[str, Tensor]:
    """L1 of centres and of sizes (L,) over the number of objects: logs, no losses."""
    counts = torch.tensor([len(target) for target in targets])
    starts = counts.cumsum(0) - counts
    boxes = torch.cat([target.boxes for target in targets])[
        starts[matches.images] + matches.objects
    ]
    found = predictions.codes[matches.layers, matches.images, matches.queries]
    centre, size = (found - boxes).abs().unflatten(1, (2, 2)).sum(2).unbind(1)
    count = counts.sum().clamp(min=1)
    zeros = torch.zeros(len(predictions.codes))
    return {
        name: zeros.index_add(0, matches.layers, part.to(zeros)) / count
        for name, part in (("loss_xy", centre), ("loss_hw", size))
    }


def check_box_parts(ledger: Ledger, subject: Subject, run: Run) -> None:
    """Lines on the parts of L1 losses, and on denoising losses, which are zero in evaluation."""
    targets, proposals = targets_of(run.batch), run.predictions.proposals
    stages = [(run.predictions, [*(f"_{i}" for i in range(subject.num_layers - 1)), ""])]
    if proposals is not None:
        stages.append((proposals, ["_interm"]))
    for predictions, suffixes in stages:
        parts = box_parts(predictions, targets, subject.set_loss.match(predictions, targets))
        for name, values in parts.items():
            for suffix, value in zip(suffixes, values, strict=True):
                ledger.close(f"losses/{name}{suffix}", value, atol=1e-7, rtol=LOSS_TOLERANCE)
    for key in ledger.has(r"losses/.+_dn(_\d)?"):
        ledger.close(key, 0.0, note="no denoising in evaluation")


def check_denoising(ledger: Ledger, subject: Subject, case: Case, plain: Run) -> None:
    """Lines on a training run whose denoising queries are not noised, so that it is not random."""
    block = subject.model.get_submodule("denoising")
    if not isinstance(block, ContrastiveDenoising):
        raise TypeError("the model has no denoising")
    noise = block.label_noise, block.box_noise
    block.label_noise = block.box_noise = 0.0
    subject.model.train()
    run = run_as_chosen(subject, case, plain.batch)
    subject.model.eval()
    block.label_noise, block.box_noise = noise
    found = run.predictions.denoising
    if found is None:
        raise ValueError("training gives no denoising predictions")
    check_output(ledger, case, "dn/pred_logits", found.logits[-1])
    check_output(ledger, case, "dn/pred_boxes", found.codes[-1])
    check_output(ledger, case, "dn/train_pred_boxes", run.predictions.codes[-1])
    layout = Layout(found.groups, found.objects)
    ledger.judge("dn", lambda: _denoising_line(ledger, subject, run, layout))


def _denoising_line(ledger: Ledger, subject: Subject, run: Run, layout: Layout) -> Line:
    """Line on all losses, their total and gradient norms of the training run."""
    facts, table = ledger.take("dn"), subject.system.official_table()
    shape = [layout.num_queries, layout.groups]
    if shape != [facts["pad_size"], facts["num_dn_group"]]:
        return same("dn", shape, [facts["pad_size"], facts["num_dn_group"]])
    ours = training_losses(subject, run, layout)
    official = {name: value for name, value in facts["losses"].items() if name != "class_error"}
    if set(ours) != set(official):
        return same("dn", sorted(ours), sorted(official))
    total = torch.stack(list(run.losses.values())).sum()
    gradients = {name: float(norm) for name, norm in facts["grad_norms"].items()}
    pairs = [(ours[name], official[name], LOSS_TOLERANCE) for name in official]
    pairs.append((float(total), facts["weighted_total"], LOSS_TOLERANCE))
    pairs += [
        (run.gradients[str(rename(name, table))], norm, GRADIENT_TOLERANCE)
        for name, norm in gradients.items()
    ]
    mine, theirs, allowed = (torch.tensor(column) for column in zip(*pairs, strict=True))
    excess = (mine - theirs).abs() / (allowed * theirs.abs() + 1e-7)
    note = f"{len(official)} losses, {len(gradients)} gradient norms, in units of what is allowed"
    return compare("dn", excess, torch.zeros_like(excess), atol=1.0, note=note)


def training_losses(subject: Subject, run: Run, layout: Layout) -> dict[str, float]:
    """Our losses and logs of a training run under official names."""
    targets, predictions, last = targets_of(run.batch), run.predictions, subject.num_layers - 1
    found = predictions.denoising
    proposals = predictions.proposals
    if found is None or proposals is None:
        raise ValueError("a training run has denoising queries and proposals")
    noised = Predictions(found.logits, found.codes)
    known = known_matches(layout, [len(target) for target in targets], last + 1)
    stages = [
        ("", "", predictions, subject.set_loss.match(predictions, targets), 1),
        ("denoising/", "_dn", noised, known, layout.groups),
        ("proposals/", "_interm", proposals, subject.set_loss.match(proposals, targets), 1),
    ]
    losses: dict[str, float] = {}
    for prefix, suffix, predicted, matches, groups in stages:
        parts = {k: v / groups for k, v in box_parts(predicted, targets, matches).items()}
        cardinality = cardinality_error(predicted, targets)
        top = len(predicted.logits) - 1
        for layer in range(top + 1):
            end = suffix if layer == top else f"{suffix}_{layer}"
            place = prefix if layer == top else f"{prefix}layer{layer}/"
            for official, ours in subject.loss_names.items():
                value = run.losses[place + ours] / subject.set_loss.loss[ours]
                losses[official + end] = float(value)
            losses["cardinality_error" + end] = float(cardinality[layer])
            losses |= {name + end: float(values[layer]) for name, values in parts.items()}
    return losses


def first_map(args: Mapping[str, Any]) -> int:
    """Official number of the backbone's first map: ResNet's stage from 0, Swin's map from 0."""
    return 0 if args["backbone"] in SWIN else args["return_interm_indices"][0]


def probe_names(subject: Subject, run: Run) -> list[str]:
    """Official modules whose outputs every case holds."""
    args = subject.fixture.config["args"]
    first = first_map(args)
    levels = range(first, first + len(run.captured["backbone"]))
    bodies = [] if args["backbone"] in SWIN else [f"backbone.0.body/{i}" for i in levels]
    return [
        *bodies,
        *pyramid_names(subject, run, first),
        "transformer.enc_output_norm",
        "transformer.decoder.ref_point_head",
        *(f"transformer.decoder.layers.{layer}" for layer in range(args["dec_layers"])),
        "transformer.decoder.norm",
    ]


def probe_finder(subject: Subject, run: Run) -> Callable[[str], Tensor]:
    """Our module outputs by official name, in the official layout (queries first)."""
    find_in_pyramid = pyramid_finder(subject, run, first_map(subject.fixture.config["args"]))

    def find(name: str) -> Tensor:
        if name == "transformer.decoder.norm":
            return run.captured["decoder_norm"].transpose(0, 1)
        if name == "transformer.decoder.ref_point_head":
            return run.captured["positions"].transpose(0, 1)
        if name.startswith("transformer.decoder.layers."):
            return run.captured[f"decoder.{name.rsplit('.', 1)[1]}"][0].transpose(0, 1)
        return find_in_pyramid(name)

    return find
