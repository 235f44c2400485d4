"""Camera rigs: any number of pinhole cameras around one reference frame.

Conventions. Camera frame: x right, y down, z forward (OpenCV, nuScenes). Image coordinates
(u, v) are in pixels with (0, 0) at the top-left **corner** of the top-left pixel, so a pixel's
centre lies at +0.5 and an image of width w covers 0 <= u <= w. Resizing by s is then exactly
u -> s u and mirroring u -> w - u, which is what DETR3D's and PETR's released code does too.
All geometry is float32 or float64, also under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from det3d.geometry import invert_matrix, transform_points
from detr2d.structures import Batch, check_shape

TENSORS = ("intrinsics", "camera_from_ref", "image_sizes", "present", "timestamps")
MIN_DEPTH = 1e-5  # metres; nearer points count as behind the camera (DETR3D, feature_sampling)


@dataclass(frozen=True)
class Projection(Batch):
    """Points seen by every camera of a rig.

    pixels (B, V, N, 2): (u, v) in each camera's image, meaningless where depth <= 0;
    depth (B, V, N): metres along the optical axis, negative behind the camera;
    visible (B, V, N) bool: in front of a present camera and strictly inside its image.
    """

    pixels: Tensor
    depth: Tensor
    visible: Tensor


@dataclass(frozen=True)
class CameraRig(Batch):
    """Calibration of V cameras for B scenes.

    intrinsics (B, V, 3, 3): image_from_camera, in pixels of the images as they are now;
    camera_from_ref (B, V, 4, 4): from the frame of the predictions to each camera;
    image_sizes (B, V, 2): (height, width) of the valid image area, in pixels, float;
    present (B, V) bool: False for padded or missing cameras, which must not change any result;
    timestamps (B, V): float64 seconds; noted: ``present`` as Python numbers, which ``to`` leaves on
    the host when the rest moves to a device, so that nobody has to ask the device for it. Whoever
    changes ``present`` does so on the host.
    """

    intrinsics: Tensor
    camera_from_ref: Tensor
    image_sizes: Tensor
    present: Tensor
    timestamps: Tensor
    noted: tuple[tuple[bool, ...], ...] | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("intrinsics", self.intrinsics, "B V 3 3", sizes)
        check_shape("camera_from_ref", self.camera_from_ref, "B V 4 4", sizes)
        check_shape("image_sizes", self.image_sizes, "B V 2", sizes)
        check_shape("present", self.present, "B V", sizes)
        check_shape("timestamps", self.timestamps, "B V", sizes)

    @property
    def num_scenes(self) -> int:
        """B."""
        return self.intrinsics.shape[0]

    @property
    def num_cameras(self) -> int:
        """V, absent cameras included."""
        return self.intrinsics.shape[1]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> CameraRig:
        """The rig with every tensor on ``device``; the host still knows who is present."""
        moved = super().to(device, non_blocking=non_blocking)
        return replace(moved, noted=self.note())

    def note(self) -> tuple[tuple[bool, ...], ...] | None:
        """``present`` as the host knows it: None if it would have to ask a device."""
        if self.present.device.type != "cpu":
            return self.noted
        return tuple(tuple(row) for row in self.present.tolist())

    def present_rows(self) -> Tensor | None:
        """Places (N,) of the present cameras among B * V, or None if all are.

        Makes the host wait for a device only if the rig was made there.
        """
        noted = self.noted if self.present.device.type != "cpu" else None
        if noted is None:
            rows = self.present.flatten().nonzero().squeeze(1)
            return None if len(rows) == self.present.numel() else rows
        there = [row for row, present in enumerate(chain(*noted)) if present]
        if len(there) == self.present.numel():
            return None
        return torch.tensor(there).to(self.present.device, non_blocking=True)

    def project(self, points_ref: Tensor) -> Projection:
        """Project points (B, N, 3) of the ref frame into every camera."""
        points_ref = points_ref.to(self.intrinsics.dtype)
        with torch.autocast(points_ref.device.type, enabled=False):
            points_camera = transform_points(self.camera_from_ref, points_ref.unsqueeze(1))
            rays = points_camera @ self.intrinsics.transpose(-1, -2)  # (B, V, N, 3)
        depth = points_camera[..., 2]
        pixels = rays[..., :2] / depth.clamp(min=MIN_DEPTH).unsqueeze(-1)
        height, width = self.image_sizes.unsqueeze(-1).unbind(-2)  # (B, V, 1)
        u, v = pixels.unbind(-1)
        inside = (u > 0) & (u < width) & (v > 0) & (v < height)
        visible = inside & (depth > MIN_DEPTH) & self.present.unsqueeze(-1)
        return Projection(pixels, depth, visible)

    def unproject(self, pixels: Tensor, depth: Tensor) -> Tensor:
        """Lift pixels (B, V, N, 2) at depths (B, V, N) to points (B, V, N, 3) in the ref frame."""
        origins, directions = self.rays(pixels)
        depth = depth.to(directions.dtype).unsqueeze(-1)
        return origins.unsqueeze(-2) + directions * depth

    def rays(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Where the lines of sight of pixels (B, V, N, 2) start and where they go, in ref.

        Origins (B, V, 3) and directions (B, V, N, 3): the point at depth d metres along the
        optical axis is origin + d * direction.
        """
        pixels = pixels.to(self.intrinsics.dtype)
        ones = torch.ones_like(pixels[..., :1])
        with torch.autocast(pixels.device.type, enabled=False):
            # Not the rigid inverse: ``moved`` allows scaled and sheared frames.
            ref_from_camera = invert_matrix(self.camera_from_ref)
            ref_from_image = ref_from_camera[..., :3, :3] @ invert_matrix(self.intrinsics)
            directions = torch.cat([pixels, ones], -1) @ ref_from_image.transpose(-1, -2)
        return ref_from_camera[..., :3, 3], directions

    def resized(self, sizes: Tensor) -> CameraRig:
        """The rig after its images are resized to ``sizes`` (B, V, 2) or (2,): (height, width)."""
        sizes = sizes.to(self.image_sizes).expand_as(self.image_sizes)
        scale = (sizes / self.image_sizes).flip(-1)  # (B, V, 2): x, y
        rows = torch.cat([scale, torch.ones_like(scale[..., :1])], dim=-1)
        return replace(self, intrinsics=rows.unsqueeze(-1) * self.intrinsics, image_sizes=sizes)

    def cropped(self, corner: Tensor, sizes: Tensor) -> CameraRig:
        """The rig after cutting ``sizes`` (height, width) at ``corner`` (top, left), in pixels.

        Both are (B, V, 2) or (2,). A negative corner or a larger size pads the image.
        """
        shift = corner.to(self.intrinsics).expand_as(self.image_sizes).flip(-1)  # x, y
        intrinsics = self.intrinsics.clone()
        intrinsics[..., :2, :] -= shift.unsqueeze(-1) * self.intrinsics[..., 2:, :]
        sizes = sizes.to(self.image_sizes).expand_as(self.image_sizes).clone()
        return replace(self, intrinsics=intrinsics, image_sizes=sizes)

    def flipped(self) -> CameraRig:
        """The rig after every image is mirrored left to right (the world is not)."""
        intrinsics = self.intrinsics.clone()
        width = self.image_sizes[..., 1:]  # (B, V, 1)
        intrinsics[..., 0, :] = width * self.intrinsics[..., 2, :] - self.intrinsics[..., 0, :]
        return replace(self, intrinsics=intrinsics)

    def moved(self, old_from_new: Tensor) -> CameraRig:
        """The same cameras described in a new ref frame; ``old_from_new`` is (B, 4, 4) or (4, 4).

        Any invertible map is allowed (a mirrored world included), so augmentation can use it.
        """
        matrix = old_from_new.to(self.camera_from_ref)
        if matrix.dim() == 3:
            matrix = matrix.unsqueeze(1)
        return replace(self, camera_from_ref=self.camera_from_ref @ matrix)

    def select(self, cameras: Sequence[int] | Tensor) -> CameraRig:
        """The rig with only the given cameras, in the given order."""
        index = torch.as_tensor(cameras, device=self.present.device)
        chosen = {name: tensor.index_select(1, index) for name, tensor in self._tensors()}
        return CameraRig(**chosen)

    def part(self, first: int, count: int) -> CameraRig:
        """The rig with only ``count`` cameras from the ``first`` on."""
        noted = self.note()
        narrowed: dict[str, Any] = {
            name: tensor.narrow(1, first, count) for name, tensor in self._tensors()
        }
        rows = noted and tuple(row[first : first + count] for row in noted)
        return CameraRig(**narrowed, noted=rows)

    def _tensors(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in TENSORS]

    def select_scene(self, scene: int) -> CameraRig:
        """The rig of one scene, as a batch of one."""
        return CameraRig(**{name: t[scene : scene + 1] for name, t in self._tensors()})

    def padded(self, num_cameras: int) -> CameraRig:
        """The rig with absent cameras appended until there are ``num_cameras``."""
        missing = num_cameras - self.num_cameras
        if missing < 0:
            raise ValueError(f"cannot pad a rig of {self.num_cameras} cameras to {num_cameras}")
        filler = absent_cameras(self.num_scenes, missing).to(self.present.device)
        pairs = zip(self._tensors(), filler._tensors(), strict=True)
        joined: dict[str, Any] = {
            name: torch.cat([a, b.to(a.dtype)], dim=1) for (name, a), (_, b) in pairs
        }
        return CameraRig(**joined)


def absent_cameras(num_scenes: int, num_cameras: int) -> CameraRig:
    """A rig of cameras that are not there: harmless numbers, ``present`` False."""
    lead = (num_scenes, num_cameras)
    return CameraRig(
        intrinsics=torch.eye(3).expand(*lead, 3, 3),
        camera_from_ref=torch.eye(4).expand(*lead, 4, 4),
        image_sizes=torch.ones(*lead, 2),
        present=torch.zeros(lead, dtype=torch.bool),
        timestamps=torch.zeros(lead, dtype=torch.float64),
    )


def concatenate_rigs(rigs: Sequence[CameraRig]) -> CameraRig:
    """Join rigs along the scene axis; shorter ones are padded with absent cameras."""
    most = max(rig.num_cameras for rig in rigs)
    padded = [rig.padded(most) for rig in rigs]
    joined: dict[str, Any] = {n: torch.cat([getattr(r, n) for r in padded]) for n in TENSORS}
    return CameraRig(**joined)
