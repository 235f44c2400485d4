"""What deformable systems are compared on beyond DETR: proposals, their order, top detections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from detr2d.boxes import to_pixels
from detr2d.criterion import cardinality_error
from detr2d.images import resize_padding
from detr2d.parity.detection import (
    LOSS_TOLERANCE,
    Run,
    Subject,
    check_output,
    matched_pairs,
    official_pairs,
    run_case,
    tolerance,
)
from detr2d.parity.fixtures import Case
from detr2d.parity.ledger import Ledger, Line, compare, same, same_pairs
from detr2d.proposals import EncoderProposals, Proposals
from detr2d.structures import ImageBatch, Targets

ORDER_KEY = "two_stage/topk_indices"


@contextmanager
def official_choice(subject: Subject, case: Case) -> Iterator[None]:
    """Let the model choose the tokens that the official float32 run chose, if it chooses any.

    Scores are nearly continuous, so rounding swaps neighbours now and then, which exchanges whole
    queries. Our own order is compared on its own, and the float64 run goes by it.
    """
    if ORDER_KEY not in case.arrays:
        yield
        return
    proposals = proposals_of(subject)
    chosen = torch.from_numpy(case.arrays[ORDER_KEY]).long()
    proposals.choose = lambda logits: chosen  # type: ignore[method-assign]
    try:
        yield
    finally:
        del proposals.choose


def run_as_chosen(subject: Subject, case: Case, batch: ImageBatch) -> Run:
    """A float32 run of a case with the official choice of tokens."""
    with official_choice(subject, case):
        return run_case(subject, batch)


def proposals_of(subject: Subject) -> EncoderProposals:
    """The model's block of proposals. Raises TypeError if it has none."""
    found = subject.model.get_submodule("queries.proposals")
    if not isinstance(found, EncoderProposals):
        raise TypeError("the model makes no proposals")
    return found


def check_order(ledger: Ledger, subject: Subject, case: Case, run: Run, double: Run) -> None:
    """Lines on the scores of chosen tokens, their order in our runs, and facts on both."""
    score = proposals_of(subject).score
    found: Proposals = run.captured["queries.proposals"]
    exact: Proposals = double.captured["queries.proposals"]
    scores, official = score(found.logits), torch.from_numpy(case.arrays[ORDER_KEY]).long()
    allowed = tolerance(case, "pred_logits")
    ledger.close("two_stage/topk_scores", scores.gather(1, official), atol=allowed)
    ours = scores.topk(official.shape[1], dim=1)

    def order_line() -> Line:
        ledger.take(ORDER_KEY)
        chosen = scores.gather(1, official)
        note = f"{int((ours.indices != official).sum())} of {official.numel()} ranks differ"
        return compare(ORDER_KEY, ours.values, chosen, atol=allowed, note=note)

    ledger.judge(ORDER_KEY, order_line)
    ledger.judge("two_stage_topk", partial(_facts_line, ledger, found))
    recorded = case.facts["fp64_max_abs_diff"]["two_stage_topk_order_differs_at"]
    differing = int((exact.chosen != official).sum())
    key = "fp64_max_abs_diff/order"
    note = "official float32 order against ours in float64"
    ties = case.facts["two_stage_topk"]["exact_ties_in_topk"]
    if ties == 0:
        ledger.judge(key, lambda: same(key, differing, recorded, note))


def _facts_line(ledger: Ledger, found: Proposals) -> Line:
    facts = ledger.take("two_stage_topk")
    ours = [found.chosen.shape[1], found.logits.shape[1]]
    return same("two_stage_topk", ours, [facts["k"], facts["num_tokens"]], "gaps not compared")


def check_proposals(
    ledger: Ledger, subject: Subject, case: Case, run: Run, targets: list[Targets], name: str
) -> None:
    """Lines on proposals as predictions, their losses and matches.

    ``name`` is the official one, such as enc: of ``out/enc_outputs`` and ``loss_ce_enc``.
    """
    proposals = run.predictions.proposals
    if proposals is None:
        raise ValueError("the system predicts no proposals")
    check_output(ledger, case, f"out/{name}_outputs/pred_logits", proposals.logits[0])
    check_output(ledger, case, f"out/{name}_outputs/pred_boxes", proposals.codes[0])
    for official, ours in subject.loss_names.items():
        value = run.losses[f"proposals/{ours}"] / subject.set_loss.loss[ours]
        ledger.close(f"losses/{official}_{name}", value, rtol=LOSS_TOLERANCE)
    cardinality = cardinality_error(proposals, targets)[-1]
    ledger.close(f"losses/cardinality_error_{name}", cardinality, atol=1e-6)
    pairs = matched_pairs(subject.set_loss.match(proposals, targets))

    def line() -> Line:
        wanted = official_pairs(ledger.take(f"hungarian_{name}"), 0)
        return same_pairs(f"hungarian_{name}", pairs, wanted)

    ledger.judge(f"hungarian_{name}", line)


def check_top_detections(ledger: Ledger, subject: Subject, case: Case, run: Run) -> None:
    """Lines on final detections: scores by rank; each official label and box must be one of ours.

    Scores that rounding could exchange are common among hundreds, so labels and boxes are looked
    up in our predictions by their score.
    """
    allowed = tolerance(case, "pred_logits")
    sizes = run.batch.original_sizes
    for image, found in enumerate(subject.system.postprocess(run.predictions)):
        key = f"post/{image}/"
        ledger.close(key + "scores", found.scores, atol=allowed)
        boxes = to_pixels(run.predictions.codes[-1, image], sizes[image])
        scores = run.predictions.logits[-1, image].sigmoid()
        near = tolerance(case, "pred_boxes") * float(sizes[image].max())
        ledger.judge(
            key + "boxes",
            partial(_detections_line, ledger, case, key, scores, boxes, (allowed, near)),
        )


def _detections_line(
    ledger: Ledger,
    case: Case,
    key: str,
    scores: Tensor,
    boxes: Tensor,
    allowed: tuple[float, float],
) -> Line:
    official = {name: torch.from_numpy(case.arrays[key + name]) for name in ("scores",)}
    labels, wanted = torch.from_numpy(ledger.take(key + "labels")), ledger.take(key + "boxes")
    same_score = (scores[:, labels] - official["scores"]).abs() <= allowed[0]  # (Q, N)
    distance = (boxes.unsqueeze(1) - torch.from_numpy(wanted)).abs().amax(-1)
    nearest = distance.masked_fill(~same_score, float("inf")).amin(0)
    return compare(
        key + "boxes",
        nearest,
        torch.zeros_like(nearest),
        atol=allowed[1],
        note="and labels: the nearest of our boxes with label and score",
    )


def pyramid_finder(subject: Subject, run: Run, first: int = 0) -> Callable[[str], Tensor]:
    """Our outputs by official module name: backbone, positions, projections, encoder.

    ``first`` is the official number of the backbone's first map.
    """
    captured, padding = run.captured, run.batch.padding

    def find(name: str) -> Tensor:
        place, _, last = name.rpartition("/" if "/" in name else ".")
        if place in ("backbone.0.body", "backbone.0"):
            return captured["backbone"].maps[int(last) - first]
        if place == "backbone.1":
            level = captured["neck"].maps[int(last.removeprefix("call"))]
            positions = subject.model.get_submodule("tokens.positions")
            return positions(resize_padding(padding, *level.shape[-2:])).permute(0, 3, 1, 2)
        if place == "input_proj":
            return captured["neck"].maps[int(last)]
        if place == "transformer.encoder.layers":
            return captured[f"encoder.layers.{last}"]
        if name == "transformer.enc_output_norm":
            return captured["queries.proposals.norm"]
        raise KeyError(f"no module of ours is known for {name}")

    return find


def pyramid_names(subject: Subject, run: Run, first: int = 0) -> list[str]:
    """Official modules of the same that every case holds."""
    args = subject.fixture.config["args"]
    maps, levels = range(len(run.captured["backbone"])), range(len(run.captured["neck"]))
    return [
        *(f"backbone.0/{first + level}" for level in maps),
        *(f"backbone.1/call{level}" for level in levels),
        *(f"input_proj.{level}" for level in levels),
        *(f"transformer.encoder.layers.{layer}" for layer in range(args["enc_layers"])),
    ]


def check_stage(
    ledger: Ledger,
    subject: Subject,
    case: Case,
    runs: tuple[Run, Run],
    name: str,
    targets: list[Targets],
) -> None:
    """All lines on a first stage: its order and its predictions, which have to find ``targets``.

    ``name`` as in ``check_proposals``; runs in float32 and in float64.
    """
    run, double = runs
    check_order(ledger, subject, case, run, double)
    check_proposals(ledger, subject, case, run, targets, name)
