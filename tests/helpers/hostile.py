"""Batches that nobody wants to meet, for every system, and what must hold when they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from det3d.structures import SceneBatch, concatenate_scenes
from detr2d.config import Experiment, TrainConfig
from detr2d.engine import Training
from detr2d.inference import evaluate
from detr2d.sharding import gathered
from detr2d.structures import ImageBatch, Targets, concatenate_images
from tests.helpers.given import given
from tests.helpers.rigs import random_scene
from tests.helpers.toy_configs import small_systems

PLANE = ("detr", "panoptic", "deformable", "dino", "deformable matched", "dino matched")
SPACE = ("detr3d", "petr", "petrv2")
WORLDS = (*PLANE, *SPACE)


@dataclass(frozen=True)
class World:
    """How samples of a system are made and joined."""

    names: tuple[str, ...]
    sample: Callable[..., Any]
    join: Callable[[Sequence[Any]], Any]


def image(
    *, objects: int = 3, token: str = "plain", size: tuple[int, int] = (32, 64)
) -> ImageBatch:
    """A noise image with boxes, and masks of these boxes."""
    boxes = torch.cat([torch.rand(objects, 2) * 0.4 + 0.3, torch.rand(objects, 2) * 0.2 + 0.1], 1)
    return with_boxes(
        ImageBatch(
            images=torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8),
            image_sizes=torch.tensor([size]).float(),
            tokens=(token,),
            original_sizes=torch.tensor([size]).float(),
        ),
        boxes,
    )


def with_boxes(batch: ImageBatch, boxes: torch.Tensor) -> ImageBatch:
    """The image with other objects; boxes (T, 4) as targets have them."""
    height, width = batch.images.shape[-2:]
    rows = (torch.arange(height) + 0.5)[:, None] / height
    columns = (torch.arange(width) + 0.5) / width
    across = (columns - boxes[:, 0, None, None]).abs() <= boxes[:, 2, None, None] / 2
    down = (rows - boxes[:, 1, None, None]).abs() <= boxes[:, 3, None, None] / 2
    labels = torch.arange(len(boxes)) % 3
    return replace(batch, targets=(Targets(labels, boxes, across & down),))


def scene(
    *, objects: int = 3, token: str = "plain", size: tuple[int, int] = (32, 64)
) -> SceneBatch:
    """Three cameras now and half a second earlier, with boxes around them."""
    made = random_scene(3, objects=objects, size=size)
    rig = made.rig.select([0, 1, 2, 0, 1, 2])
    times = torch.tensor([[0.0, 0, 0, -0.5, -0.5, -0.5]], dtype=torch.float64)
    images = torch.cat([made.images, made.images.flip(-1)], dim=1)
    return replace(made, images=images, rig=replace(rig, timestamps=times), tokens=(token,))


def moved(made: SceneBatch, *place: float) -> SceneBatch:
    """The scene with its first object at ``place`` of the ref frame."""
    assert made.targets is not None
    boxes = made.targets[0].boxes.clone()
    boxes[0, :3] = torch.tensor(place)
    return replace(made, targets=(Targets(made.targets[0].labels, boxes),))


def world_of(system: str) -> World:
    if system in PLANE:
        return World(("cat", "dog", "fox", "sky", "sea"), image, concatenate_images)
    return World(tuple(f"class{index}" for index in range(10)), scene, concatenate_scenes)


def with_pixels(made: Any, value: float) -> Any:
    """The sample with all pixels ``value``, as floats."""
    return replace(made, images=torch.full(made.images.shape, value))


def blind(made: SceneBatch) -> SceneBatch:
    return replace(
        made, rig=replace(made.rig, present=torch.zeros_like(made.rig.present)), tokens=("blind",)
    )


def forward_camera_only(made: SceneBatch) -> SceneBatch:
    present = torch.tensor([[True, False, False, True, False, False]])
    return replace(made, rig=replace(made.rig, present=present))


def slow_velocity(made: SceneBatch) -> SceneBatch:
    assert made.targets is not None
    boxes = made.targets[0].boxes.clone()
    boxes[:, 7:] = float("nan")
    return replace(made, targets=(Targets(made.targets[0].labels, boxes),))


def tiny_box(made: Any) -> Any:
    """The first object covers one pixel; in space, it is a centimetre large and far away."""
    if made.images.dim() == 4:
        return with_boxes(made, torch.tensor([[0.5, 0.5, 1 / 64, 1 / 32]]))
    boxes = made.targets[0].boxes.clone()
    boxes[0, :6] = torch.tensor([45.0, 0, 0, 0.01, 0.01, 0.01])
    return replace(made, targets=(Targets(made.targets[0].labels, boxes),))


def border_box(made: Any) -> Any:
    """Objects that end exactly at the border of the image or of the region."""
    if made.images.dim() == 4:
        return with_boxes(made, torch.tensor([[0.1, 0.5, 0.2, 1.0], [0.5, 0.5, 1.0, 1.0]]))
    return moved(made, 51.2, 51.2, 3.0)


def outside_box(made: Any) -> Any:
    """Objects that reach over the border, or lie beyond it altogether."""
    if made.images.dim() == 4:
        return with_boxes(made, torch.tensor([[0.0, 0.5, 0.4, 1.4], [1.3, 0.5, 0.2, 0.2]]))
    return moved(made, 200.0, -300.0, 40.0)


Case = Callable[[Callable[..., Any]], list[Any]]
EVERYWHERE: dict[str, Case] = {
    "no object in one": lambda make: [make(objects=0), make()],
    "no object in all": lambda make: [make(objects=0), make(objects=0)],
    "more objects than queries": lambda make: [make(objects=15), make(objects=20)],
    "a box of one pixel": lambda make: [tiny_box(make()), make()],
    "a box on the border": lambda make: [border_box(make()), make()],
    "a box beyond the border": lambda make: [outside_box(make()), make()],
    "one query": lambda make: [make(), make(objects=0)],
    "a black image": lambda make: [with_pixels(make(), 0.0), with_pixels(make(), 7.0)],
    "a NaN image": lambda make: [with_pixels(make(token="nan"), float("nan"))],
    "an image of one pixel": lambda make: [make(size=(1, 1))],
    "one pixel beside an image": lambda make: [make(size=(1, 1)), make()],
}
IN_SPACE: dict[str, Case] = {
    "all cameras absent in one": lambda make: [blind(make()), make()],
    "all cameras absent in all": lambda make: [blind(make()), blind(make())],
    "an object behind every camera": lambda make: [
        moved(forward_camera_only(make()), -20.0, 0.0, 0.0)
    ],
    "unknown velocity": lambda make: [slow_velocity(make()), make()],
}


def cases_of(system: str) -> dict[str, Case]:
    return EVERYWHERE if system in PLANE else EVERYWHERE | IN_SPACE


def with_queries(system: Any, count: int) -> Any:
    """The system with so many queries, learned and monocular ones each."""
    if hasattr(system, "transformer") and not hasattr(system, "num_queries"):
        return replace(system, transformer=replace(system.transformer, num_queries=count))
    if getattr(system, "monocular", None) is not None:
        system = replace(system, monocular=replace(system.monocular, num_queries=count))
    return replace(system, num_queries=count)


def digest(weights: list[Tensor]) -> float:
    """A number that two processes with the same weights agree on; statistics are their own."""
    return sum(float(weight.detach().double().abs().sum()) for weight in weights)


def meet(name: str, case: str, folder: str, sharding: str = "none") -> dict[str, Any]:
    """Train on a hostile batch and on a plain one, then evaluate both; what came of it.

    Of several processes only the first meets the hostile batch, and the others a plain one.
    """
    torch.set_num_threads(1)
    torch.manual_seed(5)
    world, system = world_of(name), small_systems()[name]
    hostile = [replace(made, tokens=(f"{made.tokens[0]}{i}",))
               for i, made in enumerate(cases_of(name)[case](world.sample))]  # fmt: skip
    plain = [world.sample(token=f"good{i}") for i in range(2)]
    plain = [replace(made, images=made.images.to(hostile[0].images.dtype)) for made in plain]
    experiment = Experiment(
        system=with_queries(system, 1) if case == "one query" else system,
        data=given([*plain, *hostile], world.names, world.join),
        train=TrainConfig(
            batch_size=2,
            workers=0,
            epochs=9,
            warmup_steps=0,
            skip_nonfinite=2,
            ema_decay=0.9,
            sharding=sharding,
        ),
        work_dir=Path(folder),
    )
    training = Training(experiment)
    first = training.accelerator.is_main_process
    rows = [
        training.update([world.join(hostile if first else plain)]),
        training.update([world.join(plain), world.join(hostile if first else plain)]),
        training.update([world.join(plain)]),
    ]
    weights, averages = (
        gathered(model.state_dict()) for model in (training.bare_model, training.average.module)
    )
    trained = [name for name, _ in training.bare_model.named_parameters()]
    found = {
        "losses": [None if row is None else row["loss"] for row in rows],
        "finite": all(bool(v.isfinite().all()) for s in (weights, averages) for v in s.values()),
        "digest": digest([state[name] for state in (weights, averages) for name in trained]),
        "skipped": training.skipped,
    }
    training.export()
    training.accelerator.wait_for_everyone()
    try:
        report = evaluate(experiment, experiment.work_dir / "model.safetensors")
    except FloatingPointError as error:
        return {**found, "evaluation": str(error)}
    return {**found, "evaluation": {token: int(n) for token, n in report.metrics.items()}}
