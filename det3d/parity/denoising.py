"""Denoising queries, masks, answers and losses against those that a case holds."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from det3d.checkpoints.mmdet3d import boxes_from_released, codes_to_released
from det3d.denoising import noisy_objects
from det3d.geometry import wrap_angle
from det3d.parity.checks import noise as allowed
from det3d.parity.scenes import OUTPUT_TOLERANCE, Subject
from det3d.structures import SceneBatch
from detr2d.parity.detection import LOSS_TOLERANCE, targets_of
from detr2d.parity.fixtures import Case
from detr2d.parity.ledger import Ledger, Line, compare, same

DERIVED = r"dn_known_indice|dn_batch_idx"


def check_denoising(ledger: Ledger, subject: Subject, case: Case, batch: SceneBatch) -> None:
    """Lines on the noisy objects, who sees whom, the answers of the last layer, and all losses."""
    model: Any = subject.model
    targets = targets_of(batch)
    noise = 2 * torch.from_numpy(ledger.take("dn_uniform")) - 1
    noisy = noisy_objects(
        targets,
        noise,
        config=model.denoising,
        region=model.region,
        num_queries=case.arrays["all_cls_scores"].shape[2],
        num_classes=model.num_classes,
    )
    ledger.equal("dn_pad_size", np.array(noisy.reference.shape[1]))
    ledger.close("dn_reference_points", noisy.reference, atol=OUTPUT_TOLERANCE)
    ledger.equal("dn_attn_mask_shape", np.array(noisy.blocked.shape))
    ledger.judge("dn_attn_mask_packed", partial(_mask_line, ledger, noisy.blocked))
    ledger.equal("dn_known_labels", noisy.labels)
    official = boxes_from_released(torch.from_numpy(ledger.take("dn_known_boxes")))
    turned = noisy.boxes.clone()
    turned[:, 6] = official[:, 6] + wrap_angle(turned[:, 6] - official[:, 6])
    ledger.lines.append(compare("dn_known_boxes", turned, official, atol=1e-5))
    ledger.equal("dn_map_known_indice", noisy.places)
    ledger.skip(DERIVED, "numbering of the same objects in their code")
    with torch.no_grad():
        predictions = model.denoise(batch, targets, noise)
        losses = subject.criterion(predictions, targets)
    scores, boxes = float(allowed(case, "cls").max()), float(allowed(case, "box").max())
    where = (noisy.scenes, noisy.places)
    denoised = predictions.denoised
    for key, ours, atol in (
        ("dn_known_cls_last", denoised.logits[-1], scores),
        ("dn_known_box_last", codes_to_released(denoised.codes[-1]), boxes),
    ):
        known = torch.from_numpy(ledger.take(key))[where]
        ledger.lines.append(compare(key, ours, known, atol=atol, note="without padding"))
    ledger.close("dn_cls_last_match", predictions.logits[-1], atol=scores)
    ledger.close("dn_box_last_match", codes_to_released(predictions.codes[-1]), atol=boxes)
    last = len(predictions.logits) - 1
    names = {
        "dn_loss_cls": "denoising_class",
        "dn_loss_bbox": "denoising_l1",
        "loss_cls": "class",
        "loss_bbox": "l1",
    }
    for layer in range(last + 1):
        theirs, ours_prefix = ("", "") if layer == last else (f"d{layer}.", f"layer{layer}/")
        for official_name, name in names.items():
            key = f"dnloss/{theirs}{official_name}"
            ledger.close(key, losses[ours_prefix + name], rtol=LOSS_TOLERANCE)


def _mask_line(ledger: Ledger, blocked: torch.Tensor) -> Line:
    packed = np.packbits(blocked.numpy().reshape(-1))
    return same("dn_attn_mask_packed", packed, ledger.take("dn_attn_mask_packed"))
