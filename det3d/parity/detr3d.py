"""Parity of DETR3D with WangYueFt/detr3d."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from det3d.camera_gather import camera_features
from det3d.geometry import Region
from det3d.parity.checks import (
    check_boxes,
    check_gradients,
    check_inputs,
    check_losses,
    check_matches,
    check_outputs,
)
from det3d.parity.features import check_features
from det3d.parity.sampling import sample_levels
from det3d.parity.scenes import (
    OUTPUT_TOLERANCE,
    Subject,
    make_backbone,
    make_batch,
    make_normalization,
    make_subject,
    read_cases,
)
from det3d.parity.settings import check_settings
from det3d.structures import SceneBatch
from det3d.systems.detr3d import DETR3DConfig
from detr2d.parity.detection import Run, run_model
from detr2d.parity.fixtures import Case, Fixture, Section
from detr2d.parity.ledger import Ledger, Line, agree_up_to_ties


def check_detr3d(fixture: Fixture) -> Iterator[Section]:
    """All comparisons of one variant: settings first, then case by case."""
    system = make_system(fixture.config)
    yield check_settings(fixture, system, used="cross_attention/.*|neck/.*|backbone/.*")
    for case in read_cases(fixture):
        subject = make_subject(fixture, case, system)
        yield Section(case.name, check_case(subject, case))


def make_system(config: Any) -> DETR3DConfig:
    """Our settings from official ones."""
    head, decoder, neck = config["head"], config["decoder"], config["neck"]
    backbone = make_backbone(config)
    return DETR3DConfig(
        backbone=backbone,
        extra_levels=neck["num_outs"] - len(backbone.out_stages),
        channels=head["embed_dims"],
        num_queries=head["num_query"],
        num_layers=decoder["num_layers"],
        heads=decoder["num_heads"],
        hidden=decoder["ffn_channels"],
        dropout=decoder["ffn_dropout"],
        num_cameras=config["cross_attention"]["num_cams"],
        region=Region(
            tuple(config["point_cloud_range"][:3]), tuple(config["point_cloud_range"][3:])
        ),
        images=make_normalization(config),
        num_detections=config["coder"]["max_num"],
    )


def check_case(subject: Subject, case: Case) -> list[Line]:
    """Lines on everything that a case holds."""
    ledger = Ledger(case.official)
    batch = make_batch(subject, case)
    decoder = {f"decoder.{layer}" for layer in range(len(case.arrays["all_cls_scores"]))}
    stages = {f"backbone.layer{stage}" for stage in range(1, 5)}
    stages |= {f"backbone.stages.{stage}" for stage in range(4)}
    run = run_model(subject.model, subject.criterion, batch, {"neck", *stages, *decoder})
    check_inputs(ledger, case, batch)
    check_features(ledger, case, run)
    check_outputs(ledger, case, run)
    check_states(ledger, case, run)
    check_sampling(ledger, subject, case, batch, run)
    check_losses(ledger, subject, case, batch, run)
    check_matches(ledger, subject, case, batch, run)
    check_gradients(ledger, subject, batch, run)
    check_boxes(ledger, subject, case, run)
    return ledger.finish()


def check_states(ledger: Ledger, case: Case, run: Run) -> None:
    """Lines on the queries after some layers."""
    step = int(case.arrays["hs_query_step"])
    layers = ledger.take("hs_layers").tolist()
    states = torch.stack([run.captured[f"decoder.{layer}"][0][:, ::step] for layer in layers])
    ledger.close("hs", states, atol=10 * OUTPUT_TOLERANCE)


def check_sampling(
    ledger: Ledger, subject: Subject, case: Case, batch: SceneBatch, run: Run
) -> None:
    """Lines on references, on which cameras see them, and on the features sampled there."""
    references = run.predictions.references
    if references is None:
        raise ValueError("DETR3D's predictions hold references")
    ledger.close("ref_points", references[:-1], atol=OUTPUT_TOLERANCE)
    canvas = (batch.images.shape[-2], batch.images.shape[-1])
    rig = replace(
        batch.rig, image_sizes=torch.tensor(canvas).float().expand(*batch.images.shape[:2], 2)
    )
    region = subject.system.region  # type: ignore[attr-defined]
    visible, doubtful = [], []
    for reference in references[:-1]:
        projection = rig.project(region.to_metres(reference))
        visible.append(projection.visible.transpose(1, 2))
        edge = projection.pixels / torch.tensor([canvas[1], canvas[0]])
        near = ((edge.abs() < 1e-4) | ((edge - 1).abs() < 1e-4)).any(-1)
        doubtful.append(near.transpose(1, 2))
    ledger.judge(
        "visible",
        lambda: agree_up_to_ties(
            "visible", torch.stack(visible), ledger.take("visible"), torch.stack(doubtful)
        ),
    )
    layer = int(ledger.take("sampled_layer"))
    queries = torch.from_numpy(ledger.take("sampled_queries"))
    maps = run.captured["neck"].maps
    features = camera_features(maps, rig, canvas)
    pixels = rig.project(region.to_metres(references[layer])).pixels[:, :, queries]
    ledger.close("sampled_feats", sample_levels(features, pixels)[0], atol=20 * OUTPUT_TOLERANCE)
