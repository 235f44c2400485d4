"""Parity of single operations of 3D systems with the cases in ops3d/."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from det3d.boxes import MetricBox3D
from det3d.camera_gather import camera_features
from det3d.camera_sampling import IndexedCameraSampling
from det3d.cameras import CameraRig
from det3d.checkpoints.mmdet3d import (
    boxes_from_released,
    code_from_released,
    codes_to_released,
)
from det3d.checkpoints.petr import petrv2_table
from det3d.geometry import Region
from det3d.heads import GroupedBoxHead
from det3d.parity.ops_data import DATA_CHECKS
from det3d.parity.sampling import sample_levels
from det3d.postprocess import scene_detections
from det3d.ray_positions import Depths, FeatureGate, RayPositions, RigSine
from detr2d.backbones.deformable_conv import ModulatedDeformConv2d
from detr2d.checkpoints.rename import convert
from detr2d.decoder import inverse_sigmoid
from detr2d.losses import FocalClasses
from detr2d.matching import match
from detr2d.parity.fixtures import Section, find_recipe, read_arrays, read_recipe
from detr2d.parity.ledger import Ledger, Line
from detr2d.queries import PointQueries
from detr2d.structures import Predictions

EXACT = 1e-9
SINGLE = 2e-5  # float32 computed in another order
LARGEST_COST = 100.0  # that PETR's released matcher puts in place of an infinite one


def check_ops3d(folder: Path, fill: Path | None = None) -> Iterator[Section]:
    """All operator files of one directory; those of families that are not built are listed."""
    for path in sorted(folder.glob("*.npz")):
        ledger = Ledger(read_arrays(path))
        try:
            check = CHECKS[path.stem]
            check(ledger, path if path.stem in DATA_CHECKS else _recipe(folder, fill))
        except Exception as error:  # a broken file is a verdict on it, the next one is still read
            note = f"{type(error).__name__}: {error}"
            ledger.lines.append(Line(path.stem, "FAIL", note=note))
        yield Section(path.stem, ledger.finish())


def _recipe(folder: Path, fill: Path | None) -> Path:
    return fill or find_recipe(folder)


def tensor(ledger: Ledger, key: str) -> Tensor:
    """An array of the case as a tensor."""
    return torch.from_numpy(ledger.take(key))


def one_step_rig(projections: Tensor, canvas: tuple[int, int]) -> CameraRig:
    """A rig of matrices (B, V, 4, 4) that project in one step, all images of the canvas."""
    lead = projections.shape[:2]
    return CameraRig(
        intrinsics=torch.eye(3).expand(*lead, 3, 3).to(projections),
        camera_from_ref=projections,
        image_sizes=torch.tensor(canvas).expand(*lead, 2).to(projections),
        present=torch.ones(lead, dtype=torch.bool),
        timestamps=torch.zeros(lead, dtype=torch.float64),
    )


def region_of(values: np.ndarray) -> Region:
    """A region from six numbers, the lower corner first."""
    low, high = values[:3].tolist(), values[3:].tolist()
    return Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def check_box_code(ledger: Ledger, recipe: Path) -> None:
    """Lines on codes of boxes with and without velocity, and back."""
    codec = MetricBox3D()
    for boxes, code, back in (("boxes9", "code10", "back9"), ("boxes7", "code8", "back7")):
        released = tensor(ledger, boxes)
        missing = released.new_zeros(len(released), 9 - released.shape[1])
        whole = boxes_from_released(torch.cat([released, missing], 1))
        ours = codes_to_released(codec.encode(whole))
        ledger.close(code, ours[:, : 10 - missing.shape[1]], atol=EXACT)
        codes = torch.cat([tensor(ledger, code), missing], 1)
        decoded = boxes_from_released(codec.decode(code_from_released(codes.T).T))
        ledger.close(back, decoded[:, : released.shape[1]], atol=EXACT)
    ledger.skip("layout", "description")


def check_dcnv2(ledger: Ledger, recipe: Path) -> None:
    """Line on the output of a deformable convolution with given offsets and weights."""
    x, weight = tensor(ledger, "x"), tensor(ledger, "weight")
    conv = ModulatedDeformConv2d(weight.shape[1], weight.shape[0]).double()
    conv.weight = nn.Parameter(weight)
    given = torch.cat([tensor(ledger, "offset"), tensor(ledger, "mask").logit()], dim=1)
    conv.conv_offset.register_forward_hook(lambda _m, _i, _o: given)
    with torch.no_grad():
        ledger.close("y", conv(x), atol=EXACT)
    ledger.skip("note", "description")


def check_cross_attention(ledger: Ledger, recipe: Path) -> None:
    """Line on DETR3D's cross-attention with its residual."""
    canvas = tuple(tensor(ledger, "img_shape").tolist())
    maps = [tensor(ledger, f"feat_{level}").flatten(0, 1) for level in range(4)]
    region = region_of(ledger.take("pc_range"))
    rig = one_step_rig(tensor(ledger, "lidar2img"), (canvas[0], canvas[1]))
    query, query_pos = (tensor(ledger, key).transpose(0, 1) for key in ("query", "query_pos"))
    attention = IndexedCameraSampling(
        region, channels=query.shape[-1], num_cameras=rig.num_cameras, num_levels=4, dropout=0.0
    ).double()
    names = {
        "attention_weights": "weights",
        "output_proj": "output",
        "position_encoder": "position",
    }
    state = {}
    for key in ledger.has("w/.+"):
        owner, rest = key.removeprefix("w/").split(".", 1)
        state[f"{names[owner]}.{rest}"] = tensor(ledger, key)
    attention.load_state_dict(state)
    memory = camera_features(maps, rig, (canvas[0], canvas[1]))
    with torch.no_grad():
        update, _ = attention(query, query_pos, tensor(ledger, "reference_points"), memory)
    # The official code projects in float32, also here.
    ledger.close("out", (update + query).transpose(0, 1), atol=1e-3)
    ledger.skip("layout", "description")


def check_feature_sampling(ledger: Ledger, recipe: Path) -> None:
    """Lines on what each camera and level shows at projected points, and which cameras see them."""
    size = tensor(ledger, "img_shape").tolist()
    canvas = (size[0], size[1])
    rig = one_step_rig(tensor(ledger, "lidar2img"), canvas)
    maps = [tensor(ledger, f"feat_{level}").flatten(0, 1) for level in range(4)]
    region = region_of(ledger.take("pc_range"))
    projection = rig.project(region.to_metres(tensor(ledger, "reference_points")))
    sampled = sample_levels(camera_features(maps, rig, canvas), projection.pixels)
    ledger.close("sampled", sampled.unsqueeze(-2), atol=1e-3)
    visible = projection.visible.transpose(1, 2)[:, None, :, :, None, None]
    ledger.equal("mask", visible)
    ledger.skip("layout", "description")


def check_hungarian(ledger: Ledger, recipe: Path) -> None:
    """Lines on costs and assignments, also for an object without width."""
    codes = code_from_released(tensor(ledger, "pred").T).T
    logits, labels = tensor(ledger, "logits"), tensor(ledger, "labels")
    codec = MetricBox3D()
    classes = 2.0 * FocalClasses().costs(logits, labels)
    ledger.close("cls_cost", classes, atol=1e-6)

    def l1(key: str) -> Tensor:
        targets = codec.encode(boxes_from_released(tensor(ledger, key)))
        return 0.25 * codec.costs(codes, targets)["l1"]

    def assigned(cost: Tensor) -> Tensor:
        pairs = match(cost[None, None], [len(labels)])
        found = torch.zeros(len(cost), dtype=torch.int64)
        found[pairs.queries] = pairs.objects + 1
        return found

    distance = l1("gt")
    ledger.close("reg_cost", distance, atol=1e-5)
    ledger.close("cost", classes + distance, atol=1e-5)
    found = assigned(classes + distance)
    ledger.equal("assigned_gt_inds", found)
    ledger.equal("assigned_labels", torch.where(found > 0, labels[found - 1], -1))
    broken = l1("gt_degenerate")
    official = tensor(ledger, "reg_cost_degenerate")
    known = official.isfinite()
    ledger.judge("reg_cost_degenerate", lambda: _same_infinities(broken, official, known))
    total = (classes + broken).nan_to_num(LARGEST_COST, LARGEST_COST, -LARGEST_COST)
    ledger.equal(
        "assigned_gt_inds_degenerate",
        assigned(total),
        "with PETR's stand-in for infinite costs; our matching refuses such objects",
    )
    ledger.skip("note", "description")


def _same_infinities(ours: Tensor, official: Tensor, known: Tensor) -> Line:
    apart = float((ours - official)[known].abs().max())
    fits = torch.equal(ours.isfinite(), known) and apart < 1e-5
    return Line("reg_cost_degenerate", "ok" if fits else "FAIL", apart)


def check_inverse_sigmoid(ledger: Ledger, recipe: Path) -> None:
    """Lines on both precisions."""
    x = tensor(ledger, "x")
    ledger.close("y64", inverse_sigmoid(x), atol=EXACT)
    ledger.close("y32", inverse_sigmoid(x.float()), atol=1e-2)  # 1 - 0.99999 in float32


def check_losses(ledger: Ledger, recipe: Path) -> None:
    """Lines on focal and L1 losses as the criterion computes them."""
    logits, labels = tensor(ledger, "logits"), tensor(ledger, "labels")
    focal = FocalClasses()
    one = torch.ones((), dtype=torch.float64)
    whole = focal.losses(logits[None, None], labels[None, None], 5 * one)
    ledger.close("focal_avg5", 2 * whole.squeeze(), rtol=EXACT)
    # Query by query, since ours has no weights of queries.
    each = focal.losses(logits[:, None, None], labels[:, None, None], one)
    ledger.close("focal_weighted", 2 * (each * tensor(ledger, "weights")).sum(), rtol=EXACT)
    weights = tensor(ledger, "box_weight")
    codes, targets = (
        code_from_released(tensor(ledger, key).T).T for key in ("box_pred", "box_target")
    )
    rows = [
        MetricBox3D(tuple(code_from_released(weight).abs().tolist())).losses(code, target)["l1"]
        for code, target, weight in zip(codes, targets, weights, strict=True)
    ]
    counted = 3  # objects that the official sum was divided by
    ledger.close("l1", 0.25 * torch.stack(rows).sum() / counted, rtol=1e-6)
    ledger.skip("note", "description")


def check_decode(ledger: Ledger, recipe: Path) -> None:
    """Lines on the best boxes within range, with and without a score threshold."""
    count = int(ledger.take("max_num"))
    centres = region_of(ledger.take("post_center_range"))
    codes = code_from_released(tensor(ledger, "box").movedim(-1, 0)).movedim(0, -1)
    predictions = Predictions(tensor(ledger, "cls"), codes)
    for scene, best in enumerate(scene_detections(predictions, count, centres)):
        for threshold in ("None", "0.3"):
            limit = 0.0 if threshold == "None" else float(threshold)
            found = best.select(best.scores > limit)
            key = f"thr{threshold}_b{scene}"
            ledger.close(f"scores_{key}", found.scores, atol=EXACT)
            ledger.equal(f"labels_{key}", found.labels)
            ledger.close(f"bboxes_{key}", boxes_from_released(found.boxes), atol=EXACT)


def check_frustum(ledger: Ledger, recipe: Path) -> None:
    """Lines on depths, and on the logits of the points on every line of sight."""
    pad, size = tensor(ledger, "pad_shape").tolist(), tensor(ledger, "feat_hw").tolist()
    region, near = region_of(ledger.take("position_range")), float(ledger.take("depth_start"))
    rig = one_step_rig(tensor(ledger, "lidar2img"), (pad[0], pad[1]))
    for key in ledger.has(r"depth_lid\d_D\d+"):
        name = key.removeprefix("depth_")
        kind, count = name.split("_D")
        depths = Depths(
            steps="increasing" if kind == "lid1" else "equal",
            count=int(count),
            near=near,
            far=region.upper[0],
        )
        ledger.close(key, depths.values(), rtol=1e-6)
        rays = RayPositions(region, depths, 8)
        logits = rays.logits(rig, (pad[0], pad[1]), (size[0], size[1]))
        official = tensor(ledger, f"logit_{name}")
        ours = logits.unflatten(-1, (-1, 3)).permute(0, 1, 4, 5, 2, 3)
        ours = ours[:, [0, ours.shape[1] - 1]] if official.shape[1] == 2 else ours
        share = official.double().sigmoid()
        atol = 1e-4 + 1e-6 / (share * (1 - share))
        ledger.close(f"logit_{name}", ours, atol=atol.numpy())
        outside = (logits.abs() > 11.5129).double().sum(-1) > 0.5 * depths.count
        ledger.equal(f"coords_mask_{name}", outside, "cells that look out of the region")
    ledger.skip("layout", "description")


def check_reg_layer(ledger: Ledger, recipe: Path) -> None:
    """Line on PETRv2's grouped box head."""
    head = GroupedBoxHead(ledger.official["x"].shape[-1])
    state = filled(ledger, recipe, {k: list(t.shape) for k, t in _head_shapes(head).items()})
    official = {f"pts_bbox_head.reg_branches.0.{key}": value for key, value in state.items()}
    expected = {f"box_heads.0.{key}": value for key, value in head.state_dict().items()}
    ours = convert(official, petrv2_table(), expected)
    head.load_state_dict({key.removeprefix("box_heads.0."): v for key, v in ours.items()})
    with torch.no_grad():
        codes = codes_to_released(head.double()(tensor(ledger, "x")))
    ledger.close("y", codes, atol=EXACT)
    ledger.skip("note", "description")


def _head_shapes(head: GroupedBoxHead) -> dict[str, Tensor]:
    """Our tensors by official name."""
    names = {"trunk.0": "reg_branch.0", "trunk.2": "reg_branch.3", "heads": "task_heads"}
    shapes = {}
    for name, value in head.state_dict().items():
        ours = next(start for start in names if name.startswith(start))
        shapes[names[ours] + name.removeprefix(ours)] = value
    return shapes


def filled(ledger: Ledger, recipe: Path, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Weights by official name, made by the recipe from prefix, name and salt."""
    fill, salt = read_recipe(recipe), int(ledger.take("fill_salt"))
    prefix = str(ledger.take("fill_prefix"))
    return {
        key: torch.from_numpy(fill["fill_array"](prefix + key, shapes[key], salt))
        for key in ledger.take("keys").tolist()
    }


def check_se_layer(ledger: Ledger, recipe: Path) -> None:
    """Line on PETRv2's feature-guided scaling."""
    x, guide = (tensor(ledger, key).permute(0, 2, 3, 1) for key in ("x", "x_se"))
    channels = x.shape[-1]
    shapes: dict[str, Any] = {}
    for layer in ("conv_reduce", "conv_expand"):
        shapes |= {f"{layer}.weight": [channels, channels, 1, 1], f"{layer}.bias": [channels]}
    state = filled(ledger, recipe, shapes)
    gate = FeatureGate(channels)
    official = {f"pts_bbox_head.fpe.{key}": value for key, value in state.items()}
    expected = {f"guide.{key}": value for key, value in gate.state_dict().items()}
    ours = convert(official, petrv2_table(), expected)
    gate.load_state_dict({key.removeprefix("guide."): value for key, value in ours.items()})
    with torch.no_grad():
        ledger.close("y", gate.double()(x, guide).permute(0, 3, 1, 2), atol=EXACT)


def check_positions(ledger: Ledger, recipe: Path) -> None:
    """Lines on the embeddings of points and of numbered cells."""
    points = tensor(ledger, "points").float()
    queries = PointQueries(points, 256)
    seen: list[Tensor] = []
    queries.embed[0].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    queries.positions(points.unsqueeze(0))
    first, second, third = seen[0][0].detach().chunk(3, dim=-1)
    ledger.close("pos2posemb3d", torch.cat([second, first, third], -1), atol=SINGLE)
    sines = RigSine(256).sines(tensor(ledger, "mask")).permute(0, 1, 4, 2, 3)
    ledger.close("sine3d", sines[:, ledger.take("sine3d_views").tolist()], atol=SINGLE)
    height, width = ledger.official["sine3d_12views"].shape[-2:]
    twelve = RigSine(256).sines(torch.zeros(1, 12, height, width, dtype=torch.bool))
    kept = twelve[:, [0, 5, 6, 11]].permute(0, 1, 4, 2, 3)
    ledger.close("sine3d_12views", kept, atol=SINGLE)
    ledger.skip("layout", "description")


def list_stream(ledger: Ledger, recipe: Path) -> None:
    """Lines that say that nothing of StreamPETR is compared."""
    ledger.skip(".*", "operators of a family that is not built yet")


CHECKS: dict[str, Callable[[Ledger, Path], None]] = {
    "box_code": check_box_code,
    "dcnv2": check_dcnv2,
    "detr3d_cross_attention": check_cross_attention,
    "detr3d_feature_sampling": check_feature_sampling,
    "hungarian_3d": check_hungarian,
    "inverse_sigmoid": check_inverse_sigmoid,
    "losses": check_losses,
    "nms_free_decode": check_decode,
    "petr_frustum": check_frustum,
    "petrv2_reg_layer": check_reg_layer,
    "petrv2_se_layer": check_se_layer,
    "positional_encodings": check_positions,
    "stream_ops": list_stream,
    **DATA_CHECKS,
}
