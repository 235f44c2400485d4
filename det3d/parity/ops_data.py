"""Parity of data and result handling: augmented matrices, grid masks, the frame, the submission."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from torch import Tensor

from det3d.boxes import transform_boxes
from det3d.cameras import CameraRig
from det3d.checkpoints.mmdet3d import boxes_from_released
from det3d.data.appearance import grid_of_squares
from det3d.data.framing import NativeSize, ResizeCropFlip, pad_canvas
from det3d.data.nuscenes import NuScenesConfig
from det3d.data.nuscenes_index import DETECTION_CLASSES
from det3d.data.transforms import scale_boxes
from det3d.evaluation.nuscenes import CLASS_RANGES, box_quaternions, official_boxes
from det3d.geometry import (
    invert_transform,
    make_transform,
    quaternion_to_rotation,
    rotation_about_z,
    wrap_angle,
)
from detr2d.images import CAFFE_BGR, VOVNET_BGR
from detr2d.parity.ledger import Ledger, compare, same_pairs
from detr2d.structures import Detections

FRAME = Path("real/nuscenes_frame")
PIXELS_APART = 1  # grey levels by which two implementations of one filter may differ


def tensor(ledger: Ledger, key: str) -> Tensor:
    """An array of the case as a tensor."""
    return torch.from_numpy(ledger.take(key))


def projections(rig: CameraRig) -> Tensor:
    """Matrices (V, 4, 4) of the first scene from ref to homogeneous pixels."""
    lifted = torch.eye(4, dtype=torch.float64).repeat(rig.num_cameras, 1, 1)
    lifted[:, :3, :3] = rig.intrinsics[0].double()
    return lifted @ rig.camera_from_ref[0].double()


def with_gravity_centre(boxes: Tensor) -> Tensor:
    """Our boxes of released ones whose centres are those of their bottoms."""
    lifted = boxes.clone()
    lifted[:, 2] += 0.5 * boxes[:, 5]
    return boxes_from_released(lifted)


def check_augmentation(ledger: Ledger, path: Path) -> None:
    """Lines on matrices and boxes after resize, crop, flip, rotation and scale."""
    intrinsics, extrinsics = tensor(ledger, "intrinsics0"), tensor(ledger, "extrinsics0")
    whole = next(key for key in ledger.has("test_.+/resize_dims"))  # no row is cut off there
    factor = float(ledger.official[whole.replace("_dims", "")])
    width, height = (round(float(side) / factor) for side in ledger.official[whole])
    native = CameraRig(
        intrinsics=intrinsics[None, :, :3, :3],
        camera_from_ref=extrinsics.transpose(-1, -2)[None],
        image_sizes=torch.tensor([height, width]).double().expand(1, len(intrinsics), 2),
        present=torch.ones(1, len(intrinsics), dtype=torch.bool),
        timestamps=torch.zeros(1, len(intrinsics), dtype=torch.float64),
    )
    ledger.close("lidar2img0", projections(native), atol=1e-9, rtol=1e-12)
    for name in [key.split("/")[0] for key in ledger.has(".+/resize")]:
        rig = check_framing(ledger, name, native)
        if ledger.has(f"{name}/bev_angle"):
            check_world(ledger, name, rig)
    ledger.skip("gt_before|note", "input")


def check_framing(ledger: Ledger, name: str, native: CameraRig) -> CameraRig:
    """Lines on one framing; its rig. The official matrices use the factor, not whole sizes."""
    factor, crop = float(ledger.take(f"{name}/resize")), ledger.take(f"{name}/crop").tolist()
    left, top, right, bottom = crop
    size = torch.tensor([bottom - top, right - left])
    resized = native.resized(factor * native.image_sizes)
    rig = resized.cropped(torch.tensor([top, left]), size)
    flip = bool(ledger.take(f"{name}/flip"))
    rig = rig.flipped() if flip else rig
    # The official resize and crop are float32 matrices.
    ledger.close(f"{name}/lidar2img", projections(rig), atol=1e-4, rtol=1e-7)
    lifted = torch.eye(4, dtype=torch.float64).repeat(rig.num_cameras, 1, 1)
    lifted[:, :3, :3] = rig.intrinsics[0]
    ledger.close(f"{name}/intrinsics", lifted, atol=1e-4, rtol=1e-7)
    width, height = ledger.take(f"{name}/resize_dims").tolist()
    tall, wide = native.image_sizes[0, 0].int().tolist()
    whole = (tall, wide)
    ours = [int(factor * side) for side in whole]
    ledger.lines.append(compare(f"{name}/resize_dims", ours, [height, width], atol=0))
    if name.startswith("test_"):
        window = ResizeCropFlip().window(whole, (int(size[0]), int(size[1])), None)
        ours = [*window.resized, *window.corner, *window.size]
        official = [height, width, top, left, bottom - top, right - left]
        ledger.lines.append(compare(f"{name}/crop", ours, official, atol=0))
    return rig


def check_world(ledger: Ledger, name: str, rig: CameraRig) -> None:
    """Lines on matrices and boxes after a rotation and a scaling of the world."""
    angle, factor = tensor(ledger, f"{name}/bev_angle"), float(ledger.take(f"{name}/bev_scale"))
    turn = make_transform(rotation_about_z(angle), torch.zeros(3, dtype=torch.float64))
    shrink = torch.diag(torch.tensor([1 / factor, 1 / factor, 1 / factor, 1.0]).double())
    moved = rig.moved(invert_transform(turn)).moved(shrink)
    ledger.close(f"{name}/lidar2img_bev", projections(moved), atol=1e-3, rtol=1e-5)
    boxes = with_gravity_centre(torch.from_numpy(ledger.official["gt_before"])).double()
    ours = scale_boxes(transform_boxes(turn, boxes), factor)
    official = with_gravity_centre(tensor(ledger, f"{name}/gt_after")).double()
    ours[:, 6] = official[:, 6] + wrap_angle(ours[:, 6] - official[:, 6])
    ledger.lines.append(compare(f"{name}/gt_after", ours, official, atol=1e-4))


def check_grid_mask(ledger: Ledger, path: Path) -> None:
    """Lines on masks drawn from the same random numbers as the official ones."""
    height, width = ledger.take("hw").tolist()
    for key in ledger.has(r"mask_seed\d+"):
        random = np.random.RandomState(int(key.removeprefix("mask_seed")))
        skipped = random.rand() > 0.7
        keep = torch.ones(height, width, dtype=torch.bool)
        if not skipped:
            period = random.randint(2, height)
            start = (random.randint(period), random.randint(period))
            keep = grid_of_squares(height, width, period=period, start=start, kept=0.5)
        ledger.equal(key, keep)
    ledger.skip("note", "description")


def check_nuscenes_format(ledger: Ledger, path: Path) -> None:
    """Lines on boxes in the lidar frame, and on the submission after the range filter."""
    boxes = with_gravity_centre(tensor(ledger, "boxes_bottom"))
    labels, scores = tensor(ledger, "labels"), tensor(ledger, "scores")
    ledger.close("lidar_center", boxes[:, :3], atol=1e-4)
    ledger.close("wlh", boxes[:, [4, 3, 5]], atol=1e-6)
    quaternions = box_quaternions(torch.eye(4, dtype=torch.float64), boxes[:, 6].double())
    ledger.close("lidar_quat", _signed(quaternions, ledger.official["lidar_quat"]), atol=1e-5)
    ledger.equal("classes", np.array(DETECTION_CLASSES))
    ledger.equal("class_range", np.array([CLASS_RANGES[name] for name in DETECTION_CLASSES]))
    order = torch.linspace(1, 0.5, len(boxes), dtype=torch.float64)  # keeps the official order
    poses = [
        make_transform(
            quaternion_to_rotation(tensor(ledger, f"{name}_rotation")),
            tensor(ledger, f"{name}_translation"),
        )
        for name in ("ego2global", "lidar2ego")
    ]
    ranked = Detections(order, labels, boxes, torch.arange(len(boxes)))
    found = official_boxes("token", ranked, poses[0], poses[1])
    place = {round(float(value), 9): index for index, value in enumerate(order)}
    kept = [place[round(box["detection_score"], 9)] for box in found]
    ledger.lines.append(same_pairs("keep", kept, ledger.take("keep").tolist()))
    for name in ("translation", "size", "velocity"):
        ledger.close(name, np.array([box[name] for box in found]), atol=1e-4)
    rotations = np.array([box["rotation"] for box in found])
    ledger.close("rotation", _signed(rotations, ledger.official["rotation"]), atol=1e-5)
    ledger.equal("name", np.array([box["detection_name"] for box in found]))
    ledger.equal("attr", np.array([box["attribute_name"] for box in found]))
    ledger.close("score", scores[kept], atol=1e-6)


def _signed(ours: np.ndarray, official: np.ndarray) -> np.ndarray:
    """Quaternions on the side of the official ones: both signs mean one rotation."""
    if ours.shape != official.shape:
        return ours
    return ours * np.sign((ours * official).sum(-1, keepdims=True))


def check_real_frame(ledger: Ledger, path: Path) -> None:
    """Line on the projections of the real frame; the rest is what other cases are made from."""
    camera_to_ref = make_transform(
        tensor(ledger, "sensor2lidar_rotation"), tensor(ledger, "sensor2lidar_translation")
    )
    lead = (1, len(camera_to_ref))
    rig = CameraRig(
        intrinsics=tensor(ledger, "cam_intrinsic")[None],
        camera_from_ref=invert_transform(camera_to_ref)[None],
        image_sizes=torch.ones(*lead, 2, dtype=torch.float64),  # plays no role here
        present=torch.ones(lead, dtype=torch.bool),
        timestamps=torch.zeros(lead, dtype=torch.float64),
    )
    ledger.close("lidar2img_full", projections(rig), atol=1e-6, rtol=1e-9)
    ledger.skip("cams|.*timestamp_us|.*2(ego|global)_.*|gt_.*|valid_flag|num_lidar_pts", "input")


def check_pipeline(ledger: Ledger, path: Path) -> None:
    """Lines on the real frame through PETR's pipeline; skipped where the frame is absent."""
    places = [parent / FRAME for parent in path.resolve().parents[:4]]
    root = next((place for place in places if place.is_dir()), None)
    if root is None:
        ledger.skip(".*", f"needs the real frame in {FRAME}")
        return
    final = ledger.take("final_dim").tolist()
    with TemporaryDirectory() as folder:
        config = NuScenesConfig(
            root=root, version="v1.0-mini", evaluation_split="mini_train",
            image_size=(final[0], final[1]), framing=ResizeCropFlip(), index_dir=Path(folder),
        )  # fmt: skip
        scene = config.evaluation_set()[0]
        native = replace(config, framing=NativeSize()).evaluation_set()[0].rig
    kept = ledger.take("kept").tolist()
    bgr = scene.images[0, kept].flip(1).permute(0, 2, 3, 1)
    ledger.close("resized_u8_bgr", bgr, atol=PIXELS_APART)
    # The official matrix uses the exact factor where the image has whole rows; ours follows the
    # image. For the sizes of all released configs both are the same.
    tall, wide = native.image_sizes[0, 0].int().tolist()
    factor = max(final[0] / tall, final[1] / wide)
    window = config.framing.window((tall, wide), (final[0], final[1]), None)
    exact = native.resized(factor * native.image_sizes)
    exact = exact.cropped(torch.tensor(window.corner), torch.tensor(window.size))
    ledger.close("lidar2img", projections(exact), atol=1e-3, rtol=1e-5, note="float32 rig")
    # The networks' input, from the official bytes, so that only normalising is compared.
    divisor = 32
    official = torch.from_numpy(ledger.official["resized_u8_bgr"]).permute(0, 3, 1, 2).flip(1)
    images = pad_canvas(official, divisor)
    for key, values in (("norm_vov_cam0", VOVNET_BGR), ("norm_caffe_cam0", CAFFE_BGR)):
        size = torch.tensor([official.shape[-2:]], dtype=torch.float32)
        ours = values.build()(images[:1], size)[0].permute(1, 2, 0)
        ledger.close(key, ours, atol=1e-4)
    ledger.equal("img_shape", np.array([*scene.images.shape[-2:], 3]))
    ledger.equal("pad_shape", np.array([*pad_canvas(scene.images, divisor).shape[-2:], 3]))
    check_bytes(ledger, config, root)
    ledger.skip("pillow|note|cams", "description")


def check_bytes(ledger: Ledger, config: NuScenesConfig, root: Path) -> None:
    """Line on the mean grey level of the decoded files."""
    with TemporaryDirectory() as folder:
        index = replace(config, index_dir=Path(folder)).open_index()
        columns = [index.channels.index(name) for name in ledger.official["cams"].tolist()]
        files = [str(index.image_files[0, column], "utf-8") for column in columns]
    means = []
    for file in files:
        image = cv2.imread(str(root / file))
        means.append(float("nan") if image is None else float(image.mean()))
    ledger.close("raw_bgr_mean", means, atol=0.05)


DATA_CHECKS: dict[str, Callable[[Ledger, Path], None]] = {
    "augmentation_geometry": check_augmentation,
    "grid_mask": check_grid_mask,
    "nuscenes_format": check_nuscenes_format,
    "real_frame": check_real_frame,
    "real_frame_pipeline": check_pipeline,
}
