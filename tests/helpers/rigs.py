"""Camera rigs and scenes with simple numbers."""

from __future__ import annotations

import math

import torch

from det3d.cameras import CameraRig
from det3d.structures import SceneBatch
from detr2d.structures import Targets


def ring_rig(num_cameras: int = 6, size: tuple[int, int] = (64, 112), scenes: int = 1) -> CameraRig:
    """Cameras at the origin of ref, looking outwards at equal angles, 70 degrees wide."""
    height, width = size
    focal = width / 2 / math.tan(math.radians(35))
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    poses = []
    for camera in range(num_cameras):
        angle = 2 * math.pi * camera / num_cameras
        forward = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
        down = torch.tensor([0.0, 0.0, -1.0])
        pose = torch.eye(4)
        pose[:3, :3] = torch.stack([torch.linalg.cross(down, forward), down, forward])
        poses.append(pose)
    lead = (scenes, num_cameras)
    return CameraRig(
        intrinsics=intrinsics.expand(*lead, 3, 3).clone(),
        camera_from_ref=torch.stack(poses).expand(*lead, 4, 4).clone(),
        image_sizes=torch.tensor([float(height), float(width)]).expand(*lead, 2).clone(),
        present=torch.ones(lead, dtype=torch.bool),
        timestamps=torch.zeros(lead, dtype=torch.float64),
    )


def random_boxes(count: int, spread: float = 20.0) -> torch.Tensor:
    """Boxes (count, 9) of car size scattered around the origin."""
    centre = (torch.rand(count, 3) - 0.5) * torch.tensor([2 * spread, 2 * spread, 2.0])
    size = torch.tensor([4.5, 1.9, 1.6]) * (0.8 + 0.4 * torch.rand(count, 3))
    yaw = (torch.rand(count, 1) - 0.5) * 2 * math.pi
    return torch.cat([centre, size, yaw, torch.randn(count, 2)], dim=-1)


def random_scene(
    num_cameras: int = 6, *, scenes: int = 1, objects: int = 5, size: tuple[int, int] = (64, 112)
) -> SceneBatch:
    """Noise images of a ring rig, with random boxes of ten classes."""
    return SceneBatch(
        images=torch.randint(0, 256, (scenes, num_cameras, 3, *size), dtype=torch.uint8),
        rig=ring_rig(num_cameras, size, scenes),
        tokens=tuple(f"scene{index}" for index in range(scenes)),
        targets=tuple(
            Targets(torch.randint(0, 10, (objects,)), random_boxes(objects)) for _ in range(scenes)
        ),
    )
