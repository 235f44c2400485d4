"""What all 3D detectors are compared on: outputs, losses, matches, gradients, boxes, submission."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from det3d.boxes import MetricBox3D
from det3d.checkpoints.mmdet3d import boxes_from_released, code_from_released, codes_to_released
from det3d.evaluation.nuscenes import box_quaternions, official_boxes
from det3d.geometry import make_transform, quaternion_to_rotation, wrap_angle
from det3d.parity.matched import match_rows
from det3d.parity.scenes import NOISE_FACTOR, OUTPUT_TOLERANCE, Subject, find_pose, of_scenes
from det3d.structures import SceneBatch
from detr2d.checkpoints.rename import rename
from detr2d.parity.detection import (
    LOSS_TOLERANCE,
    Run,
    run_model,
    targets_of,
)
from detr2d.parity.fixtures import Case
from detr2d.parity.gradients import GRADIENT_TOLERANCE, norms_line, reruns
from detr2d.parity.ledger import Ledger, Line, agree_up_to_ties, compare, same_pairs
from detr2d.structures import Detections, Predictions, map_tensors

INPUTS = (
    r"salt|img_seed|img_hw|pad_hw|batch|num_views|img_shape|pad_shape|lidar2img_\d|timestamp_\d"
)
INPUTS += r"|gt_labels_\d|gt_boxes_gravity_\d"
DESCRIPTIONS = r"backbone_slices_desc|hs_query_step|min_score_gap_top300|noise_.*"
FOLLOWS = 10  # tolerance of what is computed from outputs, in tolerances of the outputs


def noise(case: Case, kind: str) -> np.ndarray:
    """Allowed difference of class logits (L, 1, 1, 1) or released codes (L, 1, 1, 10)."""
    recorded = case.arrays[f"noise_{kind}"]
    allowed = OUTPUT_TOLERANCE + NOISE_FACTOR * recorded
    return allowed.reshape(len(allowed), 1, 1, -1)


def check_inputs(ledger: Ledger, case: Case, batch: SceneBatch) -> None:
    """Lines on the images and on boxes with bottom centres."""
    ledger.close("img_abs_sum", batch.images.double().abs().sum(), rtol=1e-9)
    for scene, boxes in enumerate(of_scenes(case, "gt_boxes_gravity")):
        bottom = boxes.copy()
        bottom[:, 2] -= boxes[:, 5] / 2
        ledger.close(f"gt_boxes_{scene}", bottom, atol=1e-5)
    ledger.skip(INPUTS, "input")
    ledger.skip(DESCRIPTIONS, "tolerances and descriptions")


def check_outputs(ledger: Ledger, case: Case, run: Run) -> None:
    """Lines on logits and codes of all layers."""
    ledger.close("all_cls_scores", run.predictions.logits, atol=noise(case, "cls"))
    codes = codes_to_released(run.predictions.codes)
    ledger.close("all_bbox_preds", codes, atol=noise(case, "box"))


def check_losses(ledger: Ledger, subject: Subject, case: Case, batch: SceneBatch, run: Run) -> None:
    """Lines on every loss of every layer, and their sum.

    Two assignments can cost the same but for rounding and still differ in their losses. Where a
    loss does not fit, our criterion is asked about the official outputs, which agree with ours.
    """
    last = len(run.predictions.logits) - 1
    codes = torch.from_numpy(case.arrays["all_bbox_preds"])
    codes = code_from_released(codes.movedim(-1, 0)).movedim(0, -1)
    outputs = Predictions(torch.from_numpy(case.arrays["all_cls_scores"]), codes)
    theirs_by_ours = subject.set_loss(outputs, targets_of(batch))
    for layer in range(last + 1):
        theirs, ours = ("", "") if layer == last else (f"d{layer}.", f"layer{layer}/")
        for official, name in (("loss_cls", "class"), ("loss_bbox", "l1")):
            key, value, note = f"loss/{theirs}{official}", run.losses[ours + name], ""
            expected = float(ledger.official[key])
            if abs(float(value) - expected) > LOSS_TOLERANCE * abs(expected):
                note = f"tied assignment: {float(value):.6f} of our outputs; of theirs"
                value = theirs_by_ours[ours + name]
            ledger.close(key, value, rtol=LOSS_TOLERANCE, note=note)
    total = torch.stack(list(run.losses.values())).sum()
    ledger.close("loss_total", total, rtol=LOSS_TOLERANCE)


def check_matches(
    ledger: Ledger, subject: Subject, case: Case, batch: SceneBatch, run: Run
) -> None:
    """Lines on the query of each object in the last layer.

    Where ours differ, the official ones must cost as little by our costs, but for the noise.
    """
    targets = targets_of(batch)
    matches = subject.set_loss.match(run.predictions, targets)
    costs = subject.set_loss.costs(run.predictions, targets)[-1]
    last = len(run.predictions.logits) - 1
    noisy = 2 * float(noise(case, "cls")[-1].max()) + 2 * float(noise(case, "box")[-1].max())
    for scene in range(len(batch)):
        chosen = (matches.layers == last) & (matches.images == scene)
        queries = matches.queries[chosen][matches.objects[chosen].argsort()]
        key = f"match_query_of_gt_{scene}"
        ledger.judge(key, partial(_match_line, ledger, key, queries, costs[scene], noisy))


def _match_line(ledger: Ledger, key: str, ours: Tensor, costs: Tensor, noisy: float) -> Line:
    official = torch.from_numpy(ledger.take(key))
    if ours.shape != official.shape:
        return Line(key, "FAIL", note=f"{len(ours)} pairs, official {len(official)}")
    objects = torch.arange(len(ours))
    excess = float((costs[official, objects] - costs[ours, objects]).sum())
    differ = int((ours != official).sum())
    fits = abs(excess) <= noisy * differ and len(official.unique()) == len(official)
    note = f"{differ} of {len(ours)} differ" + (f", costs by {excess:.1e}" if differ else "")
    return Line(key, "ok" if fits else "FAIL", note=note)


def check_gradients(ledger: Ledger, subject: Subject, batch: SceneBatch, run: Run) -> None:
    """Lines on the recorded gradient norms, their total, and how many parameters have one.

    Where one does not fit, further runs are asked, as in 2D.
    """
    ledger.equal("num_params_with_grad", np.array(len(run.gradients)))
    total = math.hypot(*run.gradients.values())
    ledger.close("grad_total_norm", total, rtol=GRADIENT_TOLERANCE)
    ledger.judge("grad_norms", partial(_gradient_line, ledger, subject, batch, run.gradients))


def _gradient_line(
    ledger: Ledger, subject: Subject, batch: SceneBatch, norms: Mapping[str, float]
) -> Line:
    table = subject.system.official_table()
    names = [str(rename(name, table)) for name in ledger.take("grad_names").tolist()]
    official = dict(zip(names, ledger.take("grad_norms").tolist(), strict=True))
    runs = (
        lambda: norms,
        lambda: gradients_in_double(subject, batch),
        *reruns(subject.model, lambda: gradients_of(subject, batch)),
    )
    return norms_line("grad_norms", official, runs, float(ledger.take("grad_total_norm")))


def gradients_of(subject: Subject, batch: SceneBatch) -> dict[str, float]:
    """Gradient norms by parameter of one more run."""
    return run_model(subject.model, subject.criterion, batch, ()).gradients


def gradients_in_double(subject: Subject, batch: SceneBatch) -> dict[str, float]:
    """Gradient norms by parameter of a run in float64."""
    subject.model.double()
    double = map_tensors(batch, lambda t: t.double() if t.is_floating_point() else t)
    norms = gradients_of(subject, double)
    subject.model.float()
    return norms


def check_boxes(ledger: Ledger, subject: Subject, case: Case, run: Run) -> None:
    """Lines on decoded boxes, their nuScenes form, and the submission after the range filter.

    The best 300 are compared as sets: scores closer than the noise may change places.
    """
    found = subject.system.postprocess(run.predictions)
    for scene, detections in enumerate(found):
        ledger.judge(f"dec_{scene}", partial(_decoded, ledger, subject, case, scene, detections))


def _decoded(ledger: Ledger, subject: Subject, case: Case, scene: int, found: Detections) -> Line:
    codes = torch.from_numpy(case.arrays["all_bbox_preds"][-1, scene])
    allowed = FOLLOWS * float(noise(case, "box")[-1].max())
    score_allowed = 0.25 * float(noise(case, "cls")[-1].max())  # the steepest slope of a sigmoid
    scores = ledger.take(f"dec_scores_{scene}")
    ledger.close(f"dec_scores_{scene}", found.scores, atol=score_allowed)
    boxes = boxes_from_released(torch.from_numpy(ledger.take(f"dec_boxes_gravity_{scene}")))
    labels = torch.from_numpy(ledger.take(f"dec_labels_{scene}"))
    index, settled = match_rows(
        found, boxes, labels, torch.from_numpy(scores), score_allowed=score_allowed
    )
    ours = found.select(index)
    ledger.lines.append(agree_up_to_ties(f"dec_labels_{scene}", ours.labels, labels, ~settled))
    limits = _box_limits(codes, boxes, allowed)
    gravity = boxes_from_released(ours.boxes)
    official = ledger.take(f"dec_boxes_gravity_{scene}")
    difference = _turned(gravity, torch.from_numpy(official))
    ledger.lines.append(
        compare(
            f"dec_boxes_gravity_{scene}",
            (official + difference.numpy())[settled],
            official[settled],
            atol=limits[settled].numpy(),
        )
    )
    bottom = gravity.clone()
    bottom[:, 2] -= 0.5 * gravity[:, 5]
    official = ledger.take(f"dec_boxes_bottom_{scene}")
    difference = _turned(bottom, torch.from_numpy(official))
    ledger.lines.append(
        compare(
            f"dec_boxes_bottom_{scene}",
            (official + difference.numpy())[settled],
            official[settled],
            atol=2 * limits[settled].numpy(),
        )
    )
    _check_nuscenes(ledger, scene, ours, settled, limits)
    _check_submission(ledger, subject, scene, ours, settled, limits)
    return Line(f"dec_{scene}", "ok", note=f"{int(settled.sum())} of {len(settled)} settled")


def _turned(boxes: Tensor, official: Tensor) -> Tensor:
    """Differences (N, 9) of boxes, angles in [-pi, pi)."""
    difference = boxes - official
    difference[:, 6] = wrap_angle(difference[:, 6])
    return difference


def _box_limits(codes: Tensor, boxes: Tensor, allowed: float) -> Tensor:
    """Allowed differences (N, 9): sizes by their length, angles by how well the code says them."""
    # The code behind each box: the one with the nearest centre.
    nearest = torch.cdist(code_from_released(codes.T).T[:, :3], boxes[:, :3]).argmin(0)
    certainty = codes[nearest, 6:8].norm(dim=-1).clamp(min=1e-3)
    limits = torch.full_like(boxes, allowed)
    limits[:, 3:6] = allowed * boxes[:, 3:6].clamp(min=1)
    limits[:, 6] = allowed / certainty
    return limits


def _check_nuscenes(
    ledger: Ledger, scene: int, ours: Detections, settled: Tensor, limits: Tensor
) -> None:
    """Lines on centres, sizes, quaternions and velocities in the lidar frame."""
    boxes = ours.boxes
    identity = torch.eye(4, dtype=torch.float64)
    quaternions = box_quaternions(identity, boxes[:, 6].double())
    still = torch.zeros_like(boxes[:, :1])
    parts = {
        "center": (boxes[:, :3], limits[:, :3]),
        "wlh": (boxes[:, [4, 3, 5]], limits[:, 3:6].amax(1, keepdim=True)),
        "vel": (torch.cat([boxes[:, 7:9], still], dim=1), limits[:, 7:8]),
    }
    for name, (values, atol) in parts.items():
        key = f"nusc_wlh_{scene}" if name == "wlh" else f"nusc_lidar_{name}_{scene}"
        official = ledger.take(key)
        ledger.lines.append(
            compare(key, values[settled], official[settled], atol=atol[settled].numpy())
        )
    key = f"nusc_lidar_quat_{scene}"
    official = ledger.take(key)
    ledger.lines.append(
        _quaternion_line(key, quaternions[settled], official[settled], limits[settled, 6])
    )


def _quaternion_line(key: str, ours: np.ndarray, official: np.ndarray, angle: Tensor) -> Line:
    """Line on rotations, whose quaternions have two signs."""
    same_side = np.sign((ours * official).sum(-1, keepdims=True))
    return compare(key, ours * same_side, official, atol=angle.numpy()[:, None])


def _check_submission(
    ledger: Ledger,
    subject: Subject,
    scene: int,
    ours: Detections,
    settled: Tensor,
    limits: Tensor,
) -> None:
    """Lines on the boxes of the submission, in the order of the official list."""
    pose = find_pose(subject.fixture)
    transforms = [
        make_transform(
            quaternion_to_rotation(torch.from_numpy(pose[f"{name}_rotation"])),
            torch.from_numpy(pose[f"{name}_translation"]),
        )
        for name in ("ego2global", "lidar2ego")
    ]
    order = torch.linspace(1, 0.5, len(ours), dtype=torch.float64)  # keeps the official order
    ranked = Detections(order, ours.labels, ours.boxes, ours.queries)
    found = official_boxes("token", ranked, transforms[0], transforms[1])
    place = {round(float(value), 9): index for index, value in enumerate(order)}
    kept = [place[round(box["detection_score"], 9)] for box in found]
    official = ledger.take(f"nusc_keep_{scene}").tolist()
    doubtful = {index for index, sure in enumerate(settled.tolist()) if not sure}
    line = same_pairs(f"nusc_keep_{scene}", set(kept) - doubtful, set(official) - doubtful)
    ledger.lines.append(line)
    both = [index for index in official if index in set(kept) - doubtful]
    rows = [official.index(index) for index in both]
    boxes = [found[kept.index(index)] for index in both]
    if not both:
        ledger.skip(rf"nusc_(global_\w+|score|name|attr)_{scene}", "no box is within range")
        return
    atol = limits[both].numpy()
    parts = (
        ("global_translation", "translation", atol[:, :3].max(1, keepdims=True)),
        ("global_size", "size", atol[:, 3:6].max(1, keepdims=True)),
        ("global_velocity", "velocity", atol[:, 7:9]),
    )
    for name, field, allowed in parts:
        key = f"nusc_{name}_{scene}"
        values = np.array([box[field] for box in boxes])
        ledger.lines.append(compare(key, values, ledger.take(key)[rows], atol=allowed))
    key = f"nusc_global_rotation_{scene}"
    rotations = np.array([box["rotation"] for box in boxes])
    ledger.lines.append(_quaternion_line(key, rotations, ledger.take(key)[rows], limits[both, 6]))
    key = f"nusc_score_{scene}"
    ledger.lines.append(compare(key, ours.scores[both], ledger.take(key)[rows], atol=1e-3))
    key = f"nusc_name_{scene}"
    names = [box["detection_name"] for box in boxes]
    ledger.lines.append(same_pairs(key, enumerate(names), enumerate(ledger.take(key)[rows])))
    speed = np.hypot(*np.array([box["velocity"] for box in boxes]).T)
    slow = np.abs(speed - 0.2) <= 2 * atol[:, 7]
    attributes = np.array([box["attribute_name"] for box in boxes])
    key = f"nusc_attr_{scene}"
    ledger.lines.append(agree_up_to_ties(key, attributes, ledger.take(key)[rows], slow))


def decode(codes: Tensor) -> Tensor:
    """Our boxes of released codes (..., 10)."""
    return MetricBox3D().decode(code_from_released(codes.movedim(-1, 0)).movedim(0, -1))
