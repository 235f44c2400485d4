"""Parity of single operations of Deformable DETR and DINO."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from detr2d.boxes import NormalizedBox2D, to_pixels
from detr2d.criterion import SetCriterion, cardinality_error, class_error
from detr2d.decoder import inverse_sigmoid
from detr2d.deformable import (
    DeformableAttention,
    MultiScaleMemory,
    cell_centres,
    map_sizes,
    valid_ratio,
)
from detr2d.denoising import ContrastiveDenoising, Draws, denoising_mask
from detr2d.losses import FocalClasses
from detr2d.parity.dino import box_parts
from detr2d.parity.fixtures import Case
from detr2d.parity.ledger import Ledger, Line, compare, same
from detr2d.parity.ops import (
    EXACT,
    SINGLE,
    array,
    check_criterion,
    check_mask_losses,
    check_overlaps,
    check_padding,
    synthetic_batch,
)
from detr2d.positions import SinePositions, cell_counts, sine_embedding
from detr2d.postprocess import top_detections
from detr2d.proposals import grid_anchors
from detr2d.structures import Predictions, Targets
from detr2d.systems.dino import BOX_SLACK, COST_EPS, EPS

ENTRIES = {"loss_ce": "class", "loss_bbox": "l1", "loss_giou": "giou"}
TOP = 100
WAVES = {"temperature": 1e4, "scale": 2 * math.pi}


def check_deformable_ops(ledger: Ledger, case: Case) -> None:
    """Lines on every operation of Deformable DETR."""
    for half in (8, 128):
        padding = array(case, "pe/mask")
        ours = SinePositions(2 * half, offset=-0.5)(padding).permute(0, 3, 1, 2)
        ledger.close(f"pe/sine_{half}", ours, atol=SINGLE)
        counts = sine_embedding(cell_counts(padding), half, temperature=1e4, scale=1.0)
        key = f"pe/sine_{half}_unnormalized"
        ledger.close(key, counts.permute(0, 3, 1, 2), atol=SINGLE)
    check_shared(ledger, case, eps=1e-5, slack=0.0, stage="enc")
    waves = sine_embedding(array(case, "two_stage/pos_embed_in_unact").sigmoid(), 128, **WAVES)
    ledger.close("two_stage/pos_embed_out", waves, atol=SINGLE)
    ledger.skip("two_stage/pos_embed_in_unact", "input")


def check_dino_ops(ledger: Ledger, case: Case) -> None:
    """Lines on every operation of DINO."""
    for half in (8, 128):
        for temperature in (20, 10000):
            positions = SinePositions(2 * half, temperature=temperature)
            ours = positions(array(case, "pe/mask")).permute(0, 3, 1, 2)
            ledger.close(f"pe/sine_{half}_T{temperature}", ours, atol=SINGLE)
    check_shared(ledger, case, eps=EPS, slack=BOX_SLACK, stage="interm")
    for size in (2, 4):
        points = array(case, f"sineembed/in{size}_nq_bs")
        order = [1, 0, 2, 3][:size]
        ledger.close(
            f"sineembed/out{size}", sine_embedding(points[..., order], 128, **WAVES), atol=SINGLE
        )
        ledger.skip(f"sineembed/in{size}_nq_bs", "input")
    cases = case.facts["cdn"]
    for index, facts in enumerate(cases):
        check_denoising(ledger, case, f"cdn{index}", facts)
    ledger.skip("cdn|cdn/label_enc", "input, and sizes that are compared with the arrays")


def check_shared(ledger: Ledger, case: Case, *, eps: float, slack: float, stage: str) -> None:
    """Lines on what both families have."""
    ledger.skip("family|official|note|pe/mask", "where the numbers come from; input")
    check_padding(ledger, case)
    check_overlaps(ledger, case, slack)
    check_mask_losses(ledger, case)
    ours = inverse_sigmoid(array(case, "inverse_sigmoid/x"), eps)
    ledger.close("inverse_sigmoid/y", ours, atol=EXACT)
    ledger.skip("inverse_sigmoid/x", "input")
    for name in [key.split("/")[0] for key in ledger.has(r"crit\d+/num_boxes")]:
        check_losses(ledger, case, name, focal_criterion(slack), stage)
    check_top(ledger, case)
    check_two_stage(ledger, case)
    check_attention(ledger, case)


def focal_criterion(slack: float) -> SetCriterion:
    """The families' criterion with losses that are the official entries, before any weight."""
    return SetCriterion(
        classes=FocalClasses(eps=COST_EPS),
        codec=NormalizedBox2D(slack),
        cost={"class": 2.0, "l1": 5.0, "giou": 2.0},
        loss={"class": 1.0, "l1": 1.0, "giou": 1.0},
    )


def check_losses(
    ledger: Ledger, case: Case, name: str, criterion: SetCriterion, stage: str
) -> None:
    """Lines on costs, matches, every loss entry and gradients of one synthetic batch."""
    check_criterion(ledger, case, name, criterion)
    predictions, targets = synthetic_batch(case, name)
    logits, boxes = (
        array(case, f"{name}/{stage}_outputs/pred_{kind}").unsqueeze(0)
        for kind in ("logits", "boxes")
    )
    wanted = list(targets)
    if stage == "enc":
        wanted = [Targets(torch.zeros_like(target.labels), target.boxes) for target in targets]
    last = len(predictions.logits) - 1
    layers = ["", *(f"_{layer}" for layer in range(last))]
    check_stage_losses(ledger, name, criterion, predictions, targets, layers)
    check_stage_losses(
        ledger, name, criterion, Predictions(logits, boxes), tuple(wanted), [f"_{stage}"]
    )
    wrong = class_error(predictions, targets, criterion.match(predictions, targets))
    ledger.close(f"{name}/losses/class_error", wrong, rtol=SINGLE)
    total = torch.stack(list(criterion(predictions, targets).values())).sum()
    total.backward()
    for kind, leaf in (("logits", predictions.logits), ("boxes", predictions.codes)):
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        ledger.close(f"{name}/grad_{kind}_sum_of_losses", gradient[last], atol=EXACT)
    for key in ledger.has(rf"{name}/losses/.+_dn(_\d)?"):
        ledger.close(key, 0.0, note="no denoising queries")
    inputs = f"num_boxes|target.*|(out|aux0|aux1|{stage}_outputs)/pred_(logits|boxes)"
    ledger.skip(f"{name}/({inputs})", "input")


def check_stage_losses(
    ledger: Ledger,
    name: str,
    criterion: SetCriterion,
    predictions: Predictions,
    targets: tuple[Targets, ...],
    suffixes: list[str],
) -> None:
    """Lines on the entries of each layer; ``suffixes`` names the last layer first."""
    losses = criterion(predictions, targets)
    cardinality = cardinality_error(predictions, targets)
    parts = {}
    if ledger.has(f"{name}/losses/loss_xy{suffixes[0]}"):
        parts = box_parts(predictions, targets, criterion.match(predictions, targets))
    last = len(predictions.logits) - 1
    for layer, suffix in zip([last, *range(last)], suffixes, strict=True):
        prefix = "" if layer == last else f"layer{layer}/"
        for official, ours in ENTRIES.items():
            value = losses[prefix + ours] / criterion.loss[ours]
            ledger.close(f"{name}/losses/{official}{suffix}", value, atol=EXACT, rtol=EXACT)
        ledger.close(f"{name}/losses/cardinality_error{suffix}", cardinality[layer], atol=EXACT)
        for official, values in parts.items():
            key = f"{name}/losses/{official}{suffix}"
            ledger.close(key, values[layer], atol=SINGLE, rtol=SINGLE)


def check_top(ledger: Ledger, case: Case) -> None:
    """Lines on the best pairs of query and class, with boxes in pixels."""
    logits, boxes = array(case, "post/pred_logits"), array(case, "post/pred_boxes")
    predictions = Predictions(logits.unsqueeze(0), boxes.unsqueeze(0))
    sizes = array(case, "post/target_sizes")
    for image, found in enumerate(top_detections(predictions, NormalizedBox2D(), TOP)):
        pixels = to_pixels(found.boxes, sizes[image])
        ledger.close(f"post/{image}/scores", found.scores, atol=EXACT)
        ledger.equal(f"post/{image}/labels", found.labels)
        ledger.close(f"post/{image}/boxes", pixels, atol=EXACT * float(sizes.max()))
    ledger.skip("post/(pred_logits|pred_boxes|target_sizes)", "input")


def check_two_stage(ledger: Ledger, case: Case) -> None:
    """Lines on valid ratios, the encoder's references and proposals' anchors."""
    memory = flat_memory(case)
    ledger.close("two_stage/valid_ratios", memory.valid_ratios, atol=SINGLE)
    references = memory.cells.unsqueeze(2) * memory.valid_ratios.unsqueeze(1)
    ledger.close("two_stage/encoder_reference_points", references, atol=SINGLE)
    anchors = grid_anchors(memory)
    kept = memory.tokens.masked_fill(~anchors.valid.unsqueeze(-1), 0)
    ledger.close("two_stage/output_memory_before_enc_output", kept, atol=SINGLE)
    ledger.judge("two_stage/output_proposals", lambda: _anchor_line(ledger, anchors.logits))
    ledger.skip("two_stage/(shapes|mask_flatten|memory)", "input")


def _anchor_line(ledger: Ledger, logits: Tensor) -> Line:
    """Line on anchors as boxes; which of them are infinite has to be the same."""
    key = "two_stage/output_proposals"
    official = torch.from_numpy(ledger.take(key))
    if not torch.equal(official.isinf(), logits.isinf()):
        return same(key, logits.isinf().numpy(), official.isinf().numpy(), "valid anchors")
    return compare(key, logits.sigmoid(), official.sigmoid(), atol=SINGLE)


def flat_memory(case: Case) -> MultiScaleMemory:
    """The memory that a case holds flattened; positions are not needed."""
    shapes = tuple((height, width) for height, width in case.arrays["two_stage/shapes"].tolist())
    padding, tokens = array(case, "two_stage/mask_flatten"), array(case, "two_stage/memory")
    levels = padding.split([height * width for height, width in shapes], dim=1)
    ratios = torch.stack(
        [
            valid_ratio(level.unflatten(1, shape))
            for level, shape in zip(levels, shapes, strict=True)
        ],
        dim=1,
    )
    cells = cell_centres(shapes, ratios * map_sizes(shapes, ratios))
    return MultiScaleMemory(tokens, torch.zeros_like(tokens), padding, cells, shapes, ratios)


def check_attention(ledger: Ledger, case: Case) -> None:
    """Lines on the attention module, with points and boxes, with padding and without."""
    place, names = "msda_module/", {
        "offsets": "sampling_offsets", "weights": "attention_weights",
        "value": "value_proj", "output": "output_proj",
    }  # fmt: skip
    module = DeformableAttention(channels=32, heads=4, levels=3, points=2, dropout=0.0).double()
    module.load_state_dict(
        {
            f"{ours}.{kind}": array(case, f"{place}param/{theirs}.{kind}")
            for ours, theirs in names.items()
            for kind in ("weight", "bias")
        }
    )
    base, query = flat_memory(case), array(case, place + "query")
    tokens = array(case, place + "input_flatten")
    for masked in ("", "_nomask"):
        padding = torch.zeros_like(base.padding) if masked else base.padding
        memory = MultiScaleMemory(
            tokens, tokens, padding, base.cells, base.spatial_shapes, base.valid_ratios
        )
        for size in (2, 4):
            with torch.no_grad():
                update, _ = module.look(query, array(case, f"{place}ref{size}"), memory)
            ledger.close(f"{place}out_ref{size}{masked}", update, atol=EXACT)
    ledger.skip(place + "(param/.+|query|input_flatten|ref[24])", "input")


def check_denoising(ledger: Ledger, case: Case, name: str, facts: dict) -> None:
    """Lines on denoising queries of injected random draws, and on their mask."""
    labels = array(case, "cdn/label_enc")
    block = ContrastiveDenoising(
        len(labels) - 1, labels.shape[1], count=facts["dn_number_arg"], eps=EPS
    )
    block.labels.weight.data = labels
    targets = [
        Targets(array(case, f"{name}/target{i}/labels"), array(case, f"{name}/target{i}/boxes"))
        for i in range(len(facts["num_boxes"]))
    ]
    layout = block.layout(targets)
    with torch.no_grad():
        found = block.noised(targets, layout, injected(case, name, block, targets))
    ledger.close(f"{name}/input_query_label", found.query, atol=SINGLE)
    ledger.close(f"{name}/input_query_bbox", found.reference, atol=1e-5)
    ledger.skip(f"{name}/(draw/.+|target.+)", "input")
    mask = denoising_mask(layout, facts["num_queries"], labels.device)
    key = f"{name}/attn_mask_packed"
    ledger.judge(key, partial(_mask_line, ledger, key, mask, facts, [layout.num_queries]))


def _mask_line(ledger: Ledger, key: str, mask: Tensor, facts: dict, size: list[int]) -> Line:
    official = np.unpackbits(ledger.take(key))[: mask.numel()].reshape(mask.shape)
    if size != [facts["pad_size"]] or list(mask.shape) != facts["attn_mask_shape"]:
        return same(key, [size, list(mask.shape)], [facts["pad_size"], facts["attn_mask_shape"]])
    return same(key, mask.numpy(), official.astype(bool))


def injected(case: Case, name: str, block: ContrastiveDenoising, targets: list[Targets]) -> Draws:
    """The official draws, repeat by repeat over all objects, in our places (B, R, T)."""
    layout, counts = block.layout(targets), [len(target) for target in targets]
    repeats = 2 * layout.groups
    flip = array(case, f"{name}/draw/label_p")
    label = torch.zeros_like(flip, dtype=torch.int64)
    label[flip < block.label_noise / 2] = array(case, f"{name}/draw/new_label")
    sign = array(case, f"{name}/draw/box_sign01") * 2 - 1
    part = array(case, f"{name}/draw/box_part")
    image = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)]).long()
    instance = torch.tensor([k for count in counts for k in range(count)]).long()

    def place(draws: Tensor) -> Tensor:
        shape = (len(targets), repeats, layout.objects, *draws.shape[1:])
        placed = draws.new_zeros(shape)
        if len(draws):
            by_repeat = draws.unflatten(0, (repeats, -1)).transpose(0, 1)  # (objects, R, ...)
            placed[image, :, instance] = by_repeat
        return placed

    return Draws(place(flip), place(label), place(sign), place(part))
