"""Parity of PETR and PETRv2 with megvii-research/PETR."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from det3d.denoising import DenoisingConfig
from det3d.geometry import Region
from det3d.parity.checks import (
    check_boxes,
    check_gradients,
    check_inputs,
    check_losses,
    check_matches,
    check_outputs,
)
from det3d.parity.denoising import check_denoising
from det3d.parity.features import check_features, close
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
from det3d.ray_positions import Depths, frustum_points, token_padding
from det3d.structures import SceneBatch
from det3d.systems.petr import PETRConfig
from det3d.systems.petrv2 import PETRv2Config
from detr2d.parity.detection import Run, run_model
from detr2d.parity.fixtures import Case, Fixture, Section
from detr2d.parity.ledger import Ledger, Line, agree_up_to_ties

MASKED_SHARE = 1 / 6  # of a cell's coordinates beyond the region: a mask that nobody reads
EVERY_CHANNEL = 4  # of input_proj
KEPT_QUERIES = 64
ROUNDING = 1e-6  # of a normalised coordinate in float32


def check_petr(fixture: Fixture) -> Iterator[Section]:
    """All comparisons of one PETR variant: settings first, then case by case."""
    system = make_system(fixture.config)
    yield check_settings(fixture, system, used="cross_attention/.*|neck(/.*)?|backbone/.*")
    for case in read_cases(fixture):
        subject = make_subject(fixture, case, system)
        yield Section(case.name, check_case(subject, case))


def make_system(config: Any) -> PETRConfig:
    """Our settings from official ones."""
    return PETRConfig(
        neck="none" if config["neck"] is None else "cpfpn",
        cells="rig" if config["head"]["with_multiview"] else "view",
        layer_heads="shared" if config["head"]["branches_shared_between_layers"] else "own",
        **shared_settings(config),
    )


def check_petrv2(fixture: Fixture) -> Iterator[Section]:
    """All comparisons of one PETRv2 variant, denoising included where a case holds it."""
    system = make_system_v2(fixture.config)
    yield check_settings(fixture, system, used="cross_attention/.*|neck(/.*)?|backbone/.*")
    for case in read_cases(fixture):
        subject = make_subject(fixture, case, system)
        yield Section(case.name, check_case(subject, case))


def make_system_v2(config: Any) -> PETRv2Config:
    """Our settings from official ones."""
    noise = config.get("denoise")
    denoising = None
    if noise is not None:
        denoising = DenoisingConfig(
            groups=noise["groups"],
            noise=noise["noise_scale"],
            background_from=noise["split"],
            weight=noise["dn_weight"],
        )
    return PETRv2Config(
        cells="rig" if config["head"]["with_multiview"] else "view",
        denoising=denoising,
        **shared_settings(config),
    )


def shared_settings(config: Any) -> dict[str, Any]:
    """Settings that PETR and PETRv2 have in common."""
    head, decoder, area = config["head"], config["decoder"], config["point_cloud_range"]
    lower, upper = head["position_range"][:3], head["position_range"][3:]
    return {
        "backbone": make_backbone(config),
        "channels": head["embed_dims"],
        "num_queries": head["num_query"],
        "num_layers": decoder["num_layers"],
        "heads": decoder["num_heads"],
        "hidden": decoder["ffn_channels"],
        "dropout": decoder["ffn_dropout"],
        "depths": Depths(
            steps="increasing" if head["LID"] else "equal",
            count=head["depth_num"],
            near=head["depth_start"],
            far=upper[0],
        ),
        "ray_region": Region(tuple(lower), tuple(upper)),
        "region": Region(tuple(area[:3]), tuple(area[3:])),
        "images": make_normalization(config),
        "num_detections": config["coder"]["max_num"],
    }


def check_case(subject: Subject, case: Case) -> list[Line]:
    """Lines on everything that a case holds."""
    ledger = Ledger(case.official)
    batch = make_batch(subject, case)
    kept = {f"backbone.layer{stage}" for stage in range(1, 5)}
    kept |= {f"backbone.stages.{stage}" for stage in range(4)}
    kept |= {"neck", "projection", "rays", "cells.adapt", "norm", "queries.embed", "guide"}
    states: list[torch.Tensor] = []
    norm = subject.model.get_submodule("norm")
    hook = norm.register_forward_hook(lambda _m, _i, out: states.append(out.detach()))
    run = run_model(subject.model, subject.criterion, batch, kept)
    hook.remove()
    check_inputs(ledger, case, batch)
    check_features(ledger, case, run)
    check_positions(ledger, subject, case, batch, run)
    check_outputs(ledger, case, run)
    layers, step = ledger.take("hs_layers").tolist(), int(case.arrays["hs_query_step"])
    hidden = torch.stack([states[layer][:, ::step] for layer in layers])
    ledger.close("hs", hidden, atol=10 * OUTPUT_TOLERANCE)
    check_losses(ledger, subject, case, batch, run)
    check_matches(ledger, subject, case, batch, run)
    check_gradients(ledger, subject, batch, run)
    check_boxes(ledger, subject, case, run)
    if ledger.has("dn_uniform"):
        check_denoising(ledger, subject, case, batch)
    return ledger.finish()


def check_positions(
    ledger: Ledger, subject: Subject, case: Case, batch: SceneBatch, run: Run
) -> None:
    """Lines on masks, frustum points and every embedding of the first scene."""
    model: Any = subject.model
    official = ledger.official["masks"]
    size = (official.shape[-2], official.shape[-1])
    canvas = (batch.images.shape[-2], batch.images.shape[-1])
    padding = token_padding(batch.rig, canvas, size)
    ledger.equal("masks", padding)
    cameras = ledger.take("coords_logit_cams").tolist()

    def maps(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[0, cameras].permute(0, 3, 1, 2)

    logits = maps(model.rays.logits(batch.rig, canvas, size))
    if ledger.has("coords_logit"):
        share = torch.from_numpy(ledger.official["coords_logit"]).sigmoid()
        slope = 1 / (share * (1 - share))  # a logit near the clamp magnifies rounding
        ledger.close("coords_logit", logits, atol=(OUTPUT_TOLERANCE + ROUNDING * slope).numpy())
    points = model.rays.region.to_unit(frustum_points(batch.rig, canvas, size, model.rays.depths))
    outside = ((points < 0) | (points > 1)).flatten(-2).double().mean(-1)
    if ledger.has("coords_mask"):
        edge = (points.abs() < 1e-5) | ((points - 1).abs() < 1e-5)
        masked = (outside > MASKED_SHARE) | padding
        tied = edge.flatten(-2).any(-1)
        ledger.judge(
            "coords_mask",
            lambda: agree_up_to_ties("coords_mask", masked, ledger.take("coords_mask"), tied),
        )
    if ledger.has("sine_pe"):
        close(ledger, "sine_pe", maps(model.cells.sines(padding)))
    if ledger.has("adapt_pos3d"):
        close(ledger, "adapt_pos3d", maps(run.captured["cells.adapt"]))
    if ledger.has("input_proj"):
        lead = batch.images.shape[:2]
        projected = maps(run.captured["projection"].unflatten(0, lead))
        close(ledger, "input_proj", projected[:, ::EVERY_CHANNEL])
    if ledger.has("fpe"):
        close(ledger, "fpe", maps(run.captured["guide"]))
    if ledger.has("pos_embed"):
        close(ledger, "pos_embed", maps(run.captured["rays"]))
    if ledger.has("query_embeds"):
        close(ledger, "query_embeds", run.captured["queries.embed"][0, :KEPT_QUERIES])
