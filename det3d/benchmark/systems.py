"""Benchmark cases of whole 3D systems and of PETR's position embedding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from det3d import camera_sampling
from det3d.benchmark.pieces import ring_rig
from det3d.camera_gather import gather_all
from det3d.cameras import CameraRig
from det3d.data.nuscenes_index import DETECTION_CLASSES
from det3d.geometry import Region
from det3d.ray_positions import Depths, RayPositions, RigSine, cell_corners, token_padding
from det3d.structures import SceneBatch
from det3d.systems.detr3d import DETR3DConfig
from det3d.systems.petr import PETRConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.benchmark.detection import EXACT, ROUNDED, without_gradients
from detr2d.benchmark.measure import Case, Contender, Duel, Setup
from detr2d.benchmark.plain import PLAIN, with_plain_operators
from detr2d.benchmark.steps import STEP_LIMITS, our_step, training_step
from detr2d.benchmark.subjects import Subject, randomize_norms
from detr2d.config import SystemConfig
from detr2d.decoder import inverse_sigmoid
from detr2d.inference import prepare_inference, round_weights
from detr2d.structures import Predictions, Targets

PETR_REGION = Region((-61.2, -61.2, -10.0), (61.2, 61.2, 10.0))
MAPS = (((512, 1408), (16, 44)), ((320, 800), (20, 50)), ((512, 1408), (32, 88)))
"""Canvases and maps of the released PETRs: R50 c5, VoVNet 800 x 320, R50 p4."""
PETR_C5 = PETRConfig(
    backbone=ResNetConfig(depth=50, layout="caffe", deformable_stages=(3, 4), out_stages=(4,)),
    neck="none",
)
CAMERAS, OBJECTS = 6, 30
MOVED = 1.0
PLAIN_3D = (*PLAIN, (camera_sampling, "gather", gather_all))


class PointByPoint(nn.Module):
    """``RayPositions`` as PETR's section 3.2 writes it, with the weights of ``rays``.

    Every point (u d, v d, d, 1) is multiplied by an inverse 4 x 4 matrix of its camera; the
    embedding is two 1 x 1 convolutions.
    """

    def __init__(self, rays: RayPositions) -> None:
        super().__init__()
        self.rays = rays

    def forward(self, rig: CameraRig, canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Embedding (B, V, H, W, C) of the cells of maps (H, W) that cover the canvas."""
        pixels = cell_corners(canvas, size, rig.intrinsics)
        depths = self.rays.depths.to(pixels).view(1, -1, 1)
        flat = pixels.unsqueeze(1) * depths  # (H W, D, 2)
        lifted = torch.cat(
            [flat, depths.expand(len(pixels), -1, 1), torch.ones_like(flat[..., :1])], -1
        )
        image_from_ref = rig.camera_from_ref.clone()
        image_from_ref[..., :3, :] = rig.intrinsics @ rig.camera_from_ref[..., :3, :]
        matrices = image_from_ref.inverse()[:, :, None, None]  # (B, V, 1, 1, 4, 4)
        points = (matrices @ lifted.unsqueeze(-1)).squeeze(-1)[..., :3]  # (B, V, H W, D, 3)
        logits = inverse_sigmoid(self.rays.region.to_unit(points)).flatten(-2)
        maps = logits.flatten(0, 1).transpose(1, 2).unflatten(2, size).contiguous()
        return as_convolutions(self.rays.embed, maps).unflatten(0, rig.present.shape)


class SinesByConvolution(nn.Module):
    """``RigSine`` whose two layers are 1 x 1 convolutions."""

    def __init__(self, cells: RigSine) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, padding: Tensor) -> Tensor:
        """Embedding (B, V, H, W, C) of cells with padding (B, V, H, W), True outside."""
        maps = self.cells.sines(padding).flatten(0, 1).permute(0, 3, 1, 2).contiguous()
        return as_convolutions(self.cells.adapt, maps).unflatten(0, padding.shape[:2])


def as_convolutions(layers: nn.Sequential, maps: Tensor) -> Tensor:
    """Linear layers on maps (N, C, H, W) as 1 x 1 convolutions; channels last (N, H, W, C')."""
    linear: Any = layers
    first, _, second = linear
    hidden = torch.conv2d(maps, first.weight[..., None, None], first.bias).relu()
    found = torch.conv2d(hidden, second.weight[..., None, None], second.bias)
    return found.permute(0, 2, 3, 1)


def position_duels(setup: Setup) -> Iterator[Duel]:
    """Ray and cell embeddings of six cameras, computed anew and for the rig of the last call."""
    for canvas, size in MAPS:
        torch.manual_seed(0)
        rays, cells = RayPositions(PETR_REGION, Depths(), 256), RigSine(256)
        rays.to(setup.device).requires_grad_(False)
        cells.to(setup.device).requires_grad_(False)
        rounded = copy.deepcopy((rays, cells))
        for part in rounded:
            round_weights(part)
        rig = ring_rig(CAMERAS, canvas).to(setup.device)
        padding = token_padding(rig, canvas, size)

        def program(
            embed: nn.Module,
            number: nn.Module,
            rig: CameraRig = rig,
            canvas: tuple[int, int] = canvas,
            size: tuple[int, int] = size,
            padding: Tensor = padding,
        ) -> Callable[[], Tensor]:
            return without_gradients(lambda: embed(rig, canvas, size) + number(padding))

        again = Contender("rays, same rig", program(rays.folded(), cells.folded()), _positions)
        yield Duel(
            f"{CAMERAS}x{size[0]}x{size[1]} of {canvas[0]}x{canvas[1]}",
            ours=(
                Contender("rays, new rig", program(rays, cells), _positions),
                *((again,) if setup.device.type == "cpu" else ()),  # elsewhere nothing is kept
                Contender("rays, new rig, bfloat16", program(*rounded), _positions, ROUNDED),
            ),
            peers=(
                Contender(
                    "point by point",
                    program(PointByPoint(rays), SinesByConvolution(cells)),
                    _positions,
                ),
            ),
        )


def _positions(tensor: Tensor) -> Mapping[str, Tensor]:
    return {"positions": tensor}


def make_scene_subject(
    system: SystemConfig, canvas: tuple[int, int], device: torch.device
) -> Subject[SceneBatch]:
    """A system with random weights; norms get statistics, class heads answer to what they see.

    Boxes stay at their references: one that moves over the border of an image is seen or not by
    rounding, and programs could not be compared.
    """
    torch.manual_seed(0)
    model = system.build(DETECTION_CLASSES)
    randomize_norms(model)
    for name, parameter in model.named_parameters():
        if "class_heads" in name and parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.05)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return Subject(
        system=system,
        classes=DETECTION_CLASSES,
        state=state,
        batch=noise_scene(canvas).to(device),
        device=device,
    )


def noise_scene(canvas: tuple[int, int]) -> SceneBatch:
    """Six images of random bytes around one place, and random objects there."""
    images = torch.randint(0, 256, (1, CAMERAS, 3, *canvas), dtype=torch.uint8)
    centres = (torch.rand(OBJECTS, 3) - 0.5) * torch.tensor([80.0, 80.0, 2.0])
    others = torch.cat([torch.rand(OBJECTS, 3) + 1, torch.rand(OBJECTS, 3)], dim=-1)
    targets = Targets(torch.randint(0, 10, (OBJECTS,)), torch.cat([centres, others], dim=-1))
    return SceneBatch(
        images=images, rig=ring_rig(CAMERAS, canvas), tokens=("noise",), targets=(targets,)
    )


def plain_petr(model: nn.Module) -> nn.Module:
    """The same PETR with positions as the paper and the released code write them."""
    parts: Any = model
    model.set_submodule("rays", PointByPoint(parts.rays))
    model.set_submodule("cells", SinesByConvolution(parts.cells))
    return model


def prepared(subject: Subject[SceneBatch], precision: str) -> Contender:
    """The system as ``tools/evaluate.py`` runs it.

    In bfloat16 a few reference points move over the border of an image, hence the wide limit.
    """
    predict = prepare_inference(subject.model().eval(), precision, subject.device)
    run = without_gradients(partial(predict, subject.batch))
    return Contender(precision, run, _last_layer, EXACT if precision == "float32" else MOVED)


def _last_layer(predictions: Predictions) -> Mapping[str, Tensor]:
    return {"logits": predictions.logits[-1], "codes": predictions.codes[-1]}


def inference_duel(
    subject: Subject[SceneBatch], setting: str, form: Callable[[nn.Module], nn.Module]
) -> Duel:
    """From bytes to codes, against the model in its plain ``form`` on plain operators."""
    plain = form(subject.model()).eval()
    run = without_gradients(lambda: plain(subject.batch))
    return Duel(
        setting,
        ours=tuple(prepared(subject, precision) for precision in ("float32", "bfloat16")),
        peers=(Contender("plain float32", with_plain_operators(run, PLAIN_3D), _last_layer),),
    )


def step_duel(
    subject: Subject[SceneBatch], setting: str, form: Callable[[nn.Module], nn.Module]
) -> Duel:
    """Forward, losses of all layers and gradients, against the model in its plain ``form``."""
    plain = training_step(form(subject.model()), subject, "float32")
    return Duel(
        setting,
        ours=tuple(
            Contender(precision, our_step(subject, precision), dict, limit)
            for precision, limit in STEP_LIMITS.items()
        ),
        peers=(Contender("plain float32", with_plain_operators(plain, PLAIN_3D), dict),),
    )


def scene_duels(
    make: Callable[..., Duel],
    system: PETRConfig | DETR3DConfig,
    canvas: tuple[int, int],
    form: Callable[[nn.Module], nn.Module],
    setup: Setup,
) -> Iterator[Duel]:
    """One scene of six cameras; without dropout, else programs cannot be compared."""
    subject = make_scene_subject(replace(system, dropout=0.0), canvas, setup.device)
    yield make(subject, f"{CAMERAS}x{canvas[0]}x{canvas[1]}", form)


def _unchanged(model: nn.Module) -> nn.Module:
    return model


SMALL = (256, 704)
CASES = (
    Case("op.petr_pe", "PETR's position embedding of six cameras", position_duels),
    Case(
        "petr.infer",
        "PETR R50 c5, one scene of six cameras",
        partial(scene_duels, inference_duel, PETR_C5, (512, 1408), plain_petr),
    ),
    Case(
        "petr.train",
        "PETR R50 c5, forward, loss, backward, six small cameras",
        partial(scene_duels, step_duel, PETR_C5, SMALL, plain_petr),
    ),
    Case(
        "detr3d.infer",
        "DETR3D R101, one scene of six small cameras",
        partial(scene_duels, inference_duel, DETR3DConfig(), SMALL, _unchanged),
    ),
    Case(
        "detr3d.train",
        "DETR3D R101, forward, loss, backward, six small cameras",
        partial(scene_duels, step_duel, DETR3DConfig(), SMALL, _unchanged),
    ),
)
