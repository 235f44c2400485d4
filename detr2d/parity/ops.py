"""Parity of single operations: positions, padding, boxes, losses, matching, post-processing."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from detr2d.boxes import NormalizedBox2D, overlaps, to_corners, to_pixels
from detr2d.criterion import SetCriterion, cardinality_error, class_error
from detr2d.images import resize_padding
from detr2d.losses import SoftmaxClasses, dice_losses, focal_losses
from detr2d.parity.detr import BOX_LOSSES
from detr2d.parity.fixtures import Case
from detr2d.parity.ledger import Ledger, Line, same_pairs
from detr2d.positions import LearnedPositions, SinePositions, cell_counts, sine_embedding
from detr2d.postprocess import softmax_detections
from detr2d.structures import Predictions, Targets

EXACT = 1e-9  # these cases are float64, or float32 computed in the same order
SINGLE = 1e-6
NUM_OBJECTS = 3  # that the official losses were divided by


def check_detr_ops(ledger: Ledger, case: Case) -> None:
    """Lines on every operation of DETR."""
    ledger.skip("family|official|note", "where the numbers come from")
    check_positions(ledger, case)
    check_padding(ledger, case)
    check_overlaps(ledger, case)
    check_mask_losses(ledger, case)
    for name in [key.split("/")[0] for key in ledger.has(r"crit\d+/num_boxes")]:
        criterion = detr_criterion()
        check_criterion(ledger, case, name, criterion)
        check_entries(ledger, name, criterion, *synthetic_batch(case, name))
        inputs = "num_boxes|target.*|(out|aux0|aux1)/pred_(logits|boxes)"
        ledger.skip(f"{name}/({inputs})", "input")
    check_postprocess(ledger, case)


def array(case: Case, key: str) -> Tensor:
    """An array of the case as a tensor."""
    return torch.from_numpy(case.arrays[key])


def check_positions(ledger: Ledger, case: Case) -> None:
    """Lines on sine and learned position embeddings, for padding on two sides."""
    padding = array(case, "pe/mask")
    for half in (8, 128):
        ours = SinePositions(2 * half)(padding).permute(0, 3, 1, 2)
        ledger.close(f"pe/sine_{half}", ours, atol=SINGLE)
        counts = sine_embedding(cell_counts(padding), half, temperature=1e4, scale=1.0)
        key = f"pe/sine_{half}_unnormalized"
        ledger.close(key, counts.permute(0, 3, 1, 2), atol=SINGLE)
    learned = LearnedPositions(16)
    learned.load_state_dict(
        {
            "rows.weight": array(case, "pe/learned_row"),
            "columns.weight": array(case, "pe/learned_col"),
        }
    )
    with torch.no_grad():
        ledger.close("pe/learned_8", learned(padding).permute(0, 3, 1, 2), atol=SINGLE)
    ledger.skip("pe/(mask|learned_row|learned_col)", "input")


def check_padding(ledger: Ledger, case: Case) -> None:
    """Lines on padding masks at the sizes of feature maps."""
    padding = array(case, "mask_interp/in")
    for key in ledger.has(r"mask_interp/\d+x\d+"):
        height, width = key.removeprefix("mask_interp/").split("x")
        ledger.equal(key, resize_padding(padding, int(height), int(width)))
    ledger.skip("mask_interp/in", "input")


def check_overlaps(ledger: Ledger, case: Case, slack: float = 0.0) -> None:
    """Lines on box conversion and pairwise overlaps."""
    first, second = (to_corners(array(case, f"box/cxcywh{index}")) for index in (1, 2))
    iou, giou = overlaps(first.unsqueeze(1), second, slack)
    ledger.close("box/xyxy1", first, atol=EXACT)
    ledger.close("box/iou", iou, atol=EXACT)
    ledger.close("box/giou", giou, atol=EXACT)
    area = (first[:, None, 2:] - first[:, None, :2]).prod(-1) + (
        second[:, 2:] - second[:, :2]
    ).prod(-1)
    union = (area - slack * iou) / (1 + iou)
    ledger.close("box/union", union, atol=EXACT, note="from areas and our IoU")
    ledger.skip("box/cxcywh[12]", "input")


def check_mask_losses(ledger: Ledger, case: Case) -> None:
    """Lines on focal and dice losses and their gradients."""
    targets = array(case, "loss/targets")

    def leaf() -> Tensor:
        return array(case, "loss/inputs").clone().requires_grad_()

    logits = leaf()
    per_class = focal_losses(logits, targets, 0.25, 2.0).mean(0).sum() / NUM_OBJECTS
    ledger.close("loss/focal_as_BNC_num3", per_class, rtol=EXACT)
    ledger.close("loss/focal_as_BNC_grad", torch.autograd.grad(per_class, logits)[0], atol=EXACT)
    per_mask = focal_losses(logits, targets, 0.25, 2.0).mean(1).sum() / NUM_OBJECTS
    ledger.close("loss/focal_as_NL_num3", per_mask, rtol=EXACT)
    dice = dice_losses(logits, targets).sum() / NUM_OBJECTS
    ledger.close("loss/dice_num3", dice, rtol=EXACT)
    ledger.close("loss/dice_grad", torch.autograd.grad(dice, logits)[0], atol=EXACT)
    ledger.skip("loss/(inputs|targets)", "input")


def detr_criterion() -> SetCriterion:
    """DETR's criterion with losses that are the official entries, before any weight."""
    return SetCriterion(
        classes=SoftmaxClasses(),
        codec=NormalizedBox2D(),
        cost={"class": 1.0, "l1": 5.0, "giou": 2.0},
        loss={"class": 1.0, "l1": 1.0, "giou": 1.0},
    )


def check_criterion(ledger: Ledger, case: Case, name: str, criterion: SetCriterion) -> None:
    """Lines on costs and matches of one synthetic batch."""
    predictions, targets = synthetic_batch(case, name)
    costs = criterion.costs(predictions, targets)
    matches = criterion.match(predictions, targets)
    last = len(predictions.logits) - 1
    for image, target in enumerate(targets):
        ledger.close(f"{name}/cost{image}", costs[last, image, :, : len(target)], atol=EXACT)
        chosen = (matches.layers == last) & (matches.images == image)
        pairs = torch.stack([matches.queries[chosen], matches.objects[chosen]], dim=1)
        key = f"{name}/match{image}"
        ledger.judge(key, partial(_match_line, ledger, key, pairs))
    counts = [len(target) for target in targets]
    ledger.equal(f"{name}/num_boxes", torch.tensor(counts))
    ledger.equal(f"{name}/facts/num_boxes", counts)


def synthetic_batch(case: Case, name: str) -> tuple[Predictions, tuple[Targets, ...]]:
    """Predictions (leaves that take gradients) of all layers, and the targets of a case."""
    layers = [key for key in ("aux0", "aux1", "out") if f"{name}/{key}/pred_logits" in case.arrays]
    logits = torch.stack([array(case, f"{name}/{layer}/pred_logits") for layer in layers])
    boxes = torch.stack([array(case, f"{name}/{layer}/pred_boxes") for layer in layers])
    targets = tuple(
        Targets(array(case, f"{name}/target{i}/labels"), array(case, f"{name}/target{i}/boxes"))
        for i in range(logits.shape[1])
    )
    return Predictions(logits.requires_grad_(), boxes.requires_grad_()), targets


def _match_line(ledger: Ledger, key: str, pairs: Tensor) -> Line:
    official = ledger.take(key).T.tolist()
    return same_pairs(key, map(tuple, pairs.tolist()), map(tuple, official))


def check_entries(
    ledger: Ledger,
    name: str,
    criterion: SetCriterion,
    predictions: Predictions,
    targets: tuple[Targets, ...],
) -> None:
    """Lines on every loss entry, and the gradients of their sum for the last layer."""
    losses = criterion(predictions, targets)
    cardinality = cardinality_error(predictions, targets)
    last = len(predictions.logits) - 1
    for layer in range(last + 1):
        prefix, suffix = ("", "") if layer == last else (f"layer{layer}/", f"_{layer}")
        for official, ours in BOX_LOSSES.items():
            key = f"{name}/losses/{official}{suffix}"
            ledger.close(key, losses[prefix + ours], atol=EXACT, rtol=EXACT)
        ledger.close(f"{name}/losses/cardinality_error{suffix}", cardinality[layer], atol=EXACT)
    wrong = class_error(predictions, targets, criterion.match(predictions, targets))
    ledger.close(f"{name}/losses/class_error", wrong, rtol=SINGLE)
    torch.stack(list(losses.values())).sum().backward()
    for kind, leaf in (("logits", predictions.logits), ("boxes", predictions.codes)):
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        ledger.close(f"{name}/grad_{kind}_sum_of_losses", gradient[last], atol=EXACT)


def check_postprocess(ledger: Ledger, case: Case) -> None:
    """Lines on scores, labels and boxes in pixels, in query order."""
    logits, boxes = array(case, "post/pred_logits"), array(case, "post/pred_boxes")
    predictions = Predictions(logits.unsqueeze(0), boxes.unsqueeze(0))
    sizes = array(case, "post/target_sizes")
    for image, found in enumerate(softmax_detections(predictions, NormalizedBox2D())):
        order = found.queries.argsort()
        pixels = to_pixels(found.boxes[order], sizes[image])
        ledger.close(f"post/{image}/scores", found.scores[order], atol=EXACT)
        ledger.equal(f"post/{image}/labels", found.labels[order])
        ledger.close(f"post/{image}/boxes", pixels, atol=EXACT * float(sizes.max()))
    ledger.skip("post/(pred_logits|pred_boxes|target_sizes)", "input")
