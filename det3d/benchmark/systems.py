"""Benchmark cases of whole 3D systems and of PETR's position embedding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from det3d.benchmark.pieces import ring_rig
from det3d.cameras import CameraRig
from det3d.data.nuscenes_index import DETECTION_CLASSES
from det3d.geometry import Region
from det3d.ray_positions import Depths, RayPositions, RigSine, cell_corners, token_padding
from det3d.structures import SceneBatch
from det3d.systems.detr3d import DETR3DConfig
from det3d.systems.petr import PETRConfig
from detr2d.attention import DenseAttention, Memory
from detr2d.backbones.resnet import ResNetConfig
from detr2d.benchmark.detection import EXACT, ROUNDED, without_gradients
from detr2d.benchmark.measure import Case, Contender, Duel, Setup
from detr2d.benchmark.plain import with_plain_operators
from detr2d.benchmark.subjects import randomize_norms
from detr2d.config import SystemConfig
from detr2d.decoder import inverse_sigmoid
from detr2d.inference import prepare_inference, round_weights
from detr2d.structures import Predictions

PETR_REGION = Region((-61.2, -61.2, -10.0), (61.2, 61.2, 10.0))
MAPS = (((512, 1408), (16, 44)), ((320, 800), (20, 50)), ((512, 1408), (32, 88)))
"""Canvases and maps of the released PETRs: R50 c5, VoVNet 800 x 320, R50 p4."""
PETR_C5 = PETRConfig(
    backbone=ResNetConfig(depth=50, layout="caffe", deformable_stages=(3, 4), out_stages=(4,)),
    neck="none",
)
CAMERAS = 6


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


class WeighedAttention(nn.Module):
    """``DenseAttention`` that also computes its weights, as the released decoders do."""

    def __init__(self, plain: DenseAttention) -> None:
        super().__init__()
        self.plain = plain

    def forward(
        self, query: Tensor, query_pos: Tensor, reference: Tensor | None, memory: Memory
    ) -> tuple[Tensor, None]:
        """Update (B, Q, C) of queries (B, Q, C)."""
        keys = memory.tokens + memory.positions
        attended, _ = self.plain.attention(
            query + query_pos, keys, memory.tokens, key_padding_mask=memory.padding
        )
        return self.plain.dropout(attended), None


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


def noise_scene(canvas: tuple[int, int], device: torch.device) -> SceneBatch:
    """Six images of random bytes around one place."""
    images = torch.randint(0, 256, (1, CAMERAS, 3, *canvas), dtype=torch.uint8)
    return SceneBatch(images=images, rig=ring_rig(CAMERAS, canvas), tokens=("noise",)).to(device)


def random_state(system: SystemConfig) -> Mapping[str, Tensor]:
    """Random weights of a system; norms get statistics, class heads answer to what they see.

    Boxes stay at their references: one that moves over the border of an image is seen or not by
    rounding, and programs could not be compared.
    """
    torch.manual_seed(0)
    model = system.build(DETECTION_CLASSES)
    randomize_norms(model)
    for name, parameter in model.named_parameters():
        if "class_heads" in name and parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.05)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def trained(system: SystemConfig, state: Mapping[str, Tensor], device: torch.device) -> nn.Module:
    """A new model with the weights ``state``, ready to predict."""
    model = system.build(DETECTION_CLASSES)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False).to(device)


def plain_petr(model: nn.Module) -> nn.Module:
    """The same PETR with parts as the paper and the released code write them."""
    parts: Any = model
    model.set_submodule("rays", PointByPoint(parts.rays))
    model.set_submodule("cells", SinesByConvolution(parts.cells))
    for number, layer in enumerate(parts.decoder):
        weighed = WeighedAttention(layer.cross_attention)
        model.set_submodule(f"decoder.{number}.cross_attention", weighed)
    return model


def prepared(
    system: SystemConfig, state: Mapping[str, Tensor], scene: SceneBatch, precision: str
) -> Contender:
    """The system as ``tools/evaluate.py`` runs it."""
    device = scene.images.device
    predict = prepare_inference(trained(system, state, device), precision, device)
    run = without_gradients(partial(predict, scene))
    return Contender(precision, run, _last_layer, EXACT if precision == "float32" else ROUNDED)


def _last_layer(predictions: Predictions) -> Mapping[str, Tensor]:
    return {"logits": predictions.logits[-1], "codes": predictions.codes[-1]}


def petr_duels(setup: Setup) -> Iterator[Duel]:
    """PETR R50 c5 on a scene, from bytes to codes, against its parts as published."""
    canvas, state = (512, 1408), random_state(PETR_C5)
    scene = noise_scene(canvas, setup.device)
    plain = plain_petr(trained(PETR_C5, state, setup.device))
    yield Duel(
        f"{CAMERAS}x{canvas[0]}x{canvas[1]}",
        ours=tuple(prepared(PETR_C5, state, scene, kind) for kind in ("float32", "bfloat16")),
        peers=(_plainly(plain, scene),),
    )


def detr3d_duels(setup: Setup) -> Iterator[Duel]:
    """DETR3D R101 on a scene of smaller images, from bytes to codes, against its definitions."""
    canvas, state = (256, 704), random_state(DETR3DConfig())
    scene = noise_scene(canvas, setup.device)
    plain = trained(DETR3DConfig(), state, setup.device)
    yield Duel(
        f"{CAMERAS}x{canvas[0]}x{canvas[1]}",
        ours=tuple(
            prepared(DETR3DConfig(), state, scene, kind) for kind in ("float32", "bfloat16")
        ),
        peers=(_plainly(plain, scene),),
    )


def _plainly(model: nn.Module, scene: SceneBatch) -> Contender:
    """The model on the definitions of all operators, in float32."""
    run = with_plain_operators(without_gradients(lambda: model(scene)))
    return Contender("plain float32", run, _last_layer)


CASES = (
    Case("op.petr_pe", "PETR's position embedding of six cameras", position_duels),
    Case("petr.infer", "PETR R50 c5, one scene of six cameras", petr_duels),
    Case("detr3d.infer", "DETR3D R101, one scene of six small cameras", detr3d_duels),
)
