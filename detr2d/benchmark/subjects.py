"""Models and inputs that benchmark cases share, with the same weights for every program."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detr2d.checkpoints.rename import Table, rename
from detr2d.config import SystemConfig
from detr2d.structures import ImageBatch, Targets

AnyBatch = TypeVar("AnyBatch")


@dataclass(frozen=True, kw_only=True)
class Subject(Generic[AnyBatch]):
    """A system to measure: weights of the plain model by our names, and a batch with targets."""

    system: SystemConfig
    classes: tuple[str, ...]
    state: Mapping[str, Tensor]
    batch: AnyBatch
    device: torch.device

    def model(self) -> nn.Module:
        """A new plain model with the weights, in training mode."""
        model = self.system.build(self.classes)
        model.load_state_dict(self.state)
        return model.to(self.device)


@dataclass(frozen=True, kw_only=True)
class DetectionSubject(Subject[ImageBatch]):
    """A 2D system to measure, for our side and for peers.

    ``images`` (B, 3, H, W) float32 are those of ``batch`` normalised, which is what peers begin
    with (ours begins with the bytes).
    """

    images: Tensor

    def official_weight(self, name: str, table: Table | None = None) -> Tensor:
        """The weight of an official ``name``, for peers to fill themselves with.

        A name of ours that ends in ``@i`` is part i of 3. Raises KeyError for an unknown name.
        """
        ours = rename(name, table or self.system.official_table())
        if not ours:
            raise KeyError(f"no weight of ours corresponds to {name}")
        key, _, part = ours.partition("@")
        return self.state[key].chunk(3)[int(part)] if part else self.state[key]


def make_subject(
    system: SystemConfig, size: tuple[int, int], *, images: int, objects: int, device: torch.device
) -> DetectionSubject:
    """A system with random weights and noise images that have ``objects`` objects each.

    Frozen norms get random statistics, so that leaving one out changes the outputs.
    """
    torch.manual_seed(0)
    classes = tuple(f"class {number}" for number in range(91))
    model = system.build(classes)
    randomize_norms(model)
    batch = noise_batch(size, images=images, objects=objects).to(device)
    model.to(device)
    normalized = model.get_submodule("normalize")(batch.images, batch.image_sizes)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return DetectionSubject(
        system=system,
        classes=classes,
        state=state,
        batch=batch,
        images=normalized,
        device=device,
    )


def randomize_norms(model: nn.Module) -> None:
    """Give frozen norms random statistics."""
    for norm in model.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.2, 0.2)
            nn.init.uniform_(norm.running_var, 0.7, 1.4)
            nn.init.uniform_(norm.weight, 0.4, 0.8)
            nn.init.uniform_(norm.bias, -0.1, 0.1)


def noise_batch(size: tuple[int, int], *, images: int, objects: int) -> ImageBatch:
    """Images (B, 3, H, W) of random bytes without padding, each with random objects."""
    height, width = size
    sizes = torch.tensor([[height, width]] * images, dtype=torch.float32)
    targets = tuple(
        Targets(
            torch.randint(0, 91, (objects,)),
            torch.cat([torch.rand(objects, 2) * 0.6 + 0.2, torch.rand(objects, 2) * 0.3 + 0.05], 1),
        )
        for _ in range(images)
    )
    return ImageBatch(
        images=torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8),
        image_sizes=sizes,
        tokens=tuple(str(number) for number in range(images)),
        original_sizes=sizes,
        targets=targets,
    )


def read_peer_file(path: Path) -> dict[str, Any]:
    """Execute a Python file that binds ``peers``: case name to a function of the case's subject.

    The function returns contenders. Raises ValueError if the file does not bind it.
    """
    found = runpy.run_path(str(path)).get("peers")
    if not isinstance(found, dict):
        raise ValueError(f"peer file {path} must bind peers = {{case: function}}, got {found!r}")
    return found
