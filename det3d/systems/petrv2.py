"""PETRv2: a unified framework for 3D perception from multi-camera images.

Liu et al., ICCV 2023. PETR over two moments: the cameras of an earlier frame join as further views,
brought into the present frame by the ego motion; what a cell shows guides its position embedding;
velocities are learned as displacements between the two moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from det3d.boxes import MetricBox3D
from det3d.camera_encoder import encode_cameras
from det3d.cameras import CameraRig
from det3d.checkpoints.petr import petrv2_table
from det3d.denoising import (
    DenoisedPredictions,
    DenoisingConfig,
    DenoisingLoss,
    draw_noise,
    noisy_objects,
    split_predictions,
)
from det3d.geometry import Region
from det3d.heads import GroupedBoxHead
from det3d.postprocess import scene_detections
from det3d.ray_positions import (
    Depths,
    FeatureGate,
    RayPositions,
    RigSine,
    ViewSine,
    lonely_tokens_seen,
    token_padding,
    view_tokens,
)
from det3d.structures import SceneBatch
from detr2d.accumulation import Divisor
from detr2d.attention import DenseAttention, Memory
from detr2d.backbones.necks import CPFPN
from detr2d.backbones.resnet import ResNetConfig
from detr2d.backbones.vovnet import VoVNetConfig
from detr2d.checkpoints.rename import Table
from detr2d.config import SystemConfig
from detr2d.criterion import SetCriterion
from detr2d.decoder import DecoderLayer, class_head, refine
from detr2d.images import VOVNET_BGR, Normalization, Standardization
from detr2d.losses import FocalClasses
from detr2d.queries import PointQueries
from detr2d.structures import (
    Detections,
    FeaturePyramid,
    Predictions,
    Targets,
    at_least_float32,
)


class PETRv2(nn.Module):
    """PETR over the cameras of two moments, with guided positions and per-layer heads.

    The first half of a batch's cameras is the present frame, the second half the same cameras
    earlier. In training with ``denoising``, noisy true centres are asked about as well.
    """

    def __init__(
        self,
        *,
        normalize: nn.Module,
        backbone: nn.Module,
        neck: nn.Module,
        projection: nn.Module,
        rays: RayPositions,
        guide: FeatureGate,
        cells: RigSine | ViewSine,
        queries: PointQueries,
        decoder: Sequence[DecoderLayer],
        norm: nn.Module,
        class_heads: Sequence[nn.Module],
        box_heads: Sequence[nn.Module],
        region: Region,
        num_classes: int,
        denoising: DenoisingConfig | None = None,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.neck = neck
        self.projection = projection
        self.rays = rays
        self.guide = guide
        self.cells = cells
        self.queries = queries
        self.decoder = nn.ModuleList(decoder)
        self.norm = norm
        self.class_heads = nn.ModuleList(class_heads)
        self.box_heads = nn.ModuleList(box_heads)
        self.region = region
        self.num_classes = num_classes
        self.denoising = denoising

    def forward(self, batch: SceneBatch) -> Predictions:
        """Predictions of all layers; codes as ``MetricBox3D`` has them, centres in metres.

        In training noisy objects are asked about even if there are none: processes of one run have
        to have the same losses, in which they count objects together.
        """
        targets = batch.targets or ()
        if self.denoising is None or not self.training or not targets:
            _, reference = self.queries(len(batch))
            return self.decode(batch, reference)
        return self.denoise(batch, targets, draw_noise(targets, self.denoising.groups))

    def denoise(
        self, batch: SceneBatch, targets: Sequence[Targets], noise: Tensor
    ) -> DenoisedPredictions:
        """Predictions, and answers about the true objects moved by ``noise`` (see ``draw_noise``).

        Raises ValueError for a model that is built without denoising.
        """
        if self.denoising is None:
            raise ValueError("this PETRv2 is built without denoising queries")
        _, reference = self.queries(len(batch))
        noisy = noisy_objects(
            targets,
            noise,
            config=self.denoising,
            region=self.region,
            num_queries=reference.shape[1],
            num_classes=self.num_classes,
        )
        together = torch.cat([noisy.reference.to(reference), reference], dim=1)
        return split_predictions(self.decode(batch, together, noisy.blocked), noisy)

    def decode(
        self, batch: SceneBatch, reference: Tensor, blocked: Tensor | None = None
    ) -> Predictions:
        """Predictions for references (B, Q, 3); ``blocked`` (Q, Q) hides queries from others."""
        memory = self.look(batch)
        elapsed = seconds_between(batch.rig).view(-1, 1, 1)
        query_pos = self.queries.positions(reference)
        query = torch.zeros_like(query_pos)
        logits, codes = [], []
        heads = zip(self.decoder, self.class_heads, self.box_heads, strict=True)
        for layer, classify, regress in heads:
            query, _ = layer(query, query_pos, reference, memory, blocked)
            state = self.norm(query)
            code = refine(at_least_float32(regress(state)), reference)
            centre = self.region.to_metres(code[..., :3].sigmoid())
            velocity = code[..., 8:] / elapsed.to(code)
            logits.append(classify(state))
            codes.append(torch.cat([centre, code[..., 3:8], velocity], dim=-1))
        references = reference.detach().expand(len(logits) + 1, -1, -1, -1)
        return Predictions(torch.stack(logits), torch.stack(codes), references)

    def look(self, batch: SceneBatch) -> Memory:
        """Tokens of all cameras of both moments, view by view, with their guided positions."""
        pyramid = encode_cameras(batch.images, batch.rig, self.encode)
        canvas = (batch.images.shape[-2], batch.images.shape[-1])
        tokens = view_tokens(pyramid.maps[0], self.projection, batch.rig.present.shape)
        size = (tokens.shape[2], tokens.shape[3])
        padding = token_padding(batch.rig, canvas, size)
        positions = self.guide(self.rays(batch.rig, canvas, size), tokens) + self.cells(padding)
        return Memory(
            tokens=tokens.flatten(1, 3),
            positions=positions.flatten(1, 3).to(tokens),
            padding=lonely_tokens_seen(padding.flatten(1)),
            grid=tuple(padding.shape[1:]),
        )

    def encode(self, images: Tensor, image_sizes: Tensor) -> FeaturePyramid:
        """Features of images (N, 3, H, W) with valid areas ``image_sizes`` (N, 2)."""
        return self.neck(self.backbone(self.normalize(images, image_sizes)))


def seconds_between(rig: CameraRig) -> Tensor:
    """Mean seconds (B,) from the earlier to the present images, over cameras present in both.

    One second where a scene has no such camera. Raises ValueError for an odd number of cameras.
    """
    if rig.num_cameras % 2:
        raise ValueError(
            f"PETRv2 needs each camera twice, now and earlier; the rig has {rig.num_cameras}: "
            "set data.previous"
        )
    now, earlier = rig.timestamps.chunk(2, dim=1)
    first, second = rig.present.chunk(2, dim=1)
    both = (first & second).to(now)
    count = both.sum(1)
    mean = ((now - earlier) * both).sum(1) / count.clamp(min=1)
    return torch.where(count > 0, mean, torch.ones_like(mean))


class PETRv2Criterion:
    """The set loss, and the denoising loss where the model was asked about noisy objects."""

    def __init__(self, set_loss: SetCriterion, denoising: DenoisingLoss | None) -> None:
        self.set_loss = set_loss
        self.denoising = denoising

    def __call__(self, predictions: Predictions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Weighted scalar losses by name."""
        losses = self.set_loss(predictions, targets)
        denoised = getattr(predictions, "denoised", None)
        if self.denoising is not None and denoised is not None:
            losses |= self.denoising(denoised)
        return losses

    def divisors(self, predictions: Predictions, batch: SceneBatch) -> dict[str, Divisor]:
        """Those of the set loss; denoising is a mean over groups, divided by the objects too."""
        objects = self.set_loss.objects(batch.targets or (), predictions.logits)
        terms = dict.fromkeys(DenoisingLoss.terms, objects)
        return {**self.set_loss.divisors(predictions, batch), **terms}


@dataclass(frozen=True, kw_only=True)
class PETRv2Config(SystemConfig):
    """Settings of PETRv2; the defaults are those of the released VoVNet."""

    backbone: ResNetConfig | VoVNetConfig = field(default_factory=VoVNetConfig)
    """Image backbone."""
    cells: Literal["rig", "view"] = "rig"
    """Number rows, columns and cameras (released), or rows and columns only: fits any rig."""
    channels: int = 256
    """Width of tokens and queries."""
    num_queries: int = 900
    """Objects that can be found in one scene."""
    num_layers: int = 6
    """Decoder layers."""
    heads: int = 8
    """Attention heads."""
    hidden: int = 2048
    """Width of the feed-forward blocks."""
    dropout: float = 0.1
    """Dropout in the decoder."""
    depths: Depths = field(default_factory=Depths)
    """Where points are placed along the lines of sight."""
    ray_region: Region = field(
        default_factory=lambda: Region((-61.2, -61.2, -10.0), (61.2, 61.2, 10.0))
    )
    """Where these points can be, in the ref frame; those outside are clamped."""
    region: Region = field(default_factory=Region)
    """Where objects can be, in the ref frame."""
    denoising: DenoisingConfig | None = None
    """Also ask about noisy true objects in training."""
    images: Normalization | Standardization = VOVNET_BGR
    """Normalisation by fixed means and deviations, or by those of each image."""
    num_detections: int = 300
    """Detections kept per scene."""

    def build(self, classes: tuple[str, ...]) -> PETRv2:
        """Build the model with random weights."""
        backbone, channels, layers = self.backbone.build(), self.channels, range(self.num_layers)
        return PETRv2(
            normalize=self.images.build(),
            backbone=backbone,
            neck=CPFPN(backbone.out_channels, channels),
            projection=nn.Linear(channels, channels),
            rays=RayPositions(self.ray_region, self.depths, channels),
            guide=FeatureGate(channels),
            cells=RigSine(channels) if self.cells == "rig" else ViewSine(channels),
            queries=PointQueries(torch.rand(self.num_queries, 3), channels),
            decoder=[
                DecoderLayer(
                    DenseAttention(channels=channels, heads=self.heads, dropout=self.dropout),
                    channels=channels,
                    heads=self.heads,
                    hidden=self.hidden,
                    dropout=self.dropout,
                )
                for _ in layers
            ],
            norm=nn.LayerNorm(channels),
            class_heads=[class_head(channels, len(classes)) for _ in layers],
            box_heads=[GroupedBoxHead(channels) for _ in layers],
            region=self.region,
            num_classes=len(classes),
            denoising=self.denoising,
        )

    def build_criterion(self, classes: tuple[str, ...]) -> PETRv2Criterion:
        """Focal and L1 with the paper's weights; velocity counts fully."""
        focal, codec, weights = FocalClasses(), MetricBox3D((1.0,) * 10), {"class": 2.0, "l1": 0.25}
        set_loss = SetCriterion(classes=focal, codec=codec, cost=weights, loss=weights)
        if self.denoising is None:
            return PETRv2Criterion(set_loss, None)
        denoising = DenoisingLoss(
            self.denoising, classes=focal, codec=codec, class_weight=2.0, l1_weight=0.25
        )
        return PETRv2Criterion(set_loss, denoising)

    def official_table(self) -> Table:
        """Names in the authors' checkpoints.

        Raises ValueError for cells that are numbered per camera, which they have no weights for.
        """
        if self.cells == "view":
            raise ValueError("official PETRv2 weights number the cameras: set cells to rig")
        return petrv2_table()

    def postprocess(self, predictions: Predictions) -> list[Detections]:
        """The best (query, class) pairs of the last layer, without suppression."""
        return scene_detections(predictions, self.num_detections)
