"""Official settings that our system says the same about, and those it is built from."""

from __future__ import annotations

from typing import Any

import torch

from det3d.checkpoints.mmdet3d import codes_to_released
from detr2d.config import SystemConfig
from detr2d.parity.fixtures import Fixture, Section
from detr2d.parity.ledger import Ledger

TRAINING = r"train/.*|backbone/activation_checkpointing"
ORIGIN = r"variant|source/.*|box_convention|input_modality/.*"
DATA = r"image/.*|temporal/.*"


def check_settings(fixture: Fixture, system: SystemConfig, *, used: str) -> Section:
    """Lines on key and parameter counts, classes, loss and matching weights."""
    ledger = Ledger(flat(fixture.config))
    with torch.device("meta"):
        model = system.build(tuple(fixture.config["class_names"]))
    norms = sum(
        buffer.numel()
        for name, buffer in model.named_buffers()
        if name.rsplit(".", 1)[-1] in ("weight", "bias")  # of frozen norms: parameters there
    )
    criterion: Any = system.build_criterion(tuple(fixture.config["class_names"]))
    set_loss = getattr(criterion, "set_loss", criterion)
    code_weights = codes_to_released(torch.tensor(set_loss.codec.weights).abs()).abs().tolist()
    stored = 10  # code_weights count as parameters there
    ledger.equal("num_state_dict_keys", len(fixture.manifest))
    aliases = sum("alias_of" in info for info in fixture.manifest.values())
    ledger.equal("num_aliased_keys", aliases)
    parameters = sum(p.numel() for p in model.parameters())
    ledger.equal("num_parameters", parameters + norms + stored)
    ledger.equal("head/code_weights", [float(f"{w:.6g}") for w in code_weights])
    ledger.equal("loss/cls/weight", set_loss.loss["class"])
    ledger.equal("loss/bbox/weight", set_loss.loss["l1"])
    ledger.equal("match/cls/weight", set_loss.cost["class"])
    ledger.equal("match/bbox/weight", set_loss.cost["l1"])
    for kind in ("loss", "match"):
        ledger.equal(f"{kind}/cls/alpha", set_loss.classes.alpha)
        ledger.equal(f"{kind}/cls/gamma", set_loss.classes.gamma)
        ledger.equal(f"{kind}/iou_weight", 0.0)
    ledger.skip(ORIGIN, "where the numbers come from")
    ledger.skip(TRAINING, "how it was trained: nothing to compute")
    ledger.skip(DATA, "how images are prepared: see ops3d and the data tests")
    ledger.skip(
        rf"class_names|point_cloud_range|head/.*|decoder/.*|coder/.*|{used}",
        "what our system is made from",
    )
    ledger.skip("(loss|match)/.*|voxel_size|denoise/.*", "fixed in our code as in theirs")
    return Section("settings", ledger.finish())


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by path; lists stay whole."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        path: item
        for key, inner in value.items()
        for path, item in flat(inner, f"{prefix}/{key}".lstrip("/")).items()
    }
