"""PETRv2: a unified framework for 3D perception from multi-camera images.

Liu et al., ICCV 2023. PETR over two moments: the cameras of an earlier frame join as further views,
brought into the present frame by the ego motion; what a cell shows guides its position embedding;
velocities are learned as displacements between the two moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from det3d.boxes import MetricBox3D
from det3d.camera_encoder import encode_cameras
from det3d.cameras import CameraRig
from det3d.checkpoints.petr import petrv2_table
from det3d.criterion import SceneCriterion, ScenePredictions
from det3d.denoising import (
    DenoisingConfig,
    DenoisingLoss,
    draw_noise,
    noisy_objects,
    split_predictions,
)
from det3d.geometry import Region
from det3d.heads import GroupedBoxHead
from det3d.monocular import (
    MonocularConfig,
    MonocularMaps,
    QueryStart,
    blank_start,
    build_monocular,
)
from det3d.monocular_loss import monocular_loss
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
from det3d.two_moments import (
    DisplacementVelocity,
    MovingStart,
    encode_present,
    seconds_between,
)
from detr2d.attention import DenseAttention, Memory
from detr2d.backbones.necks import CPFPN
from detr2d.backbones.resnet import ResNetConfig
from detr2d.backbones.vovnet import VoVNetConfig
from detr2d.checkpoints.rename import Table
from detr2d.config import SystemConfig
from detr2d.criterion import SetCriterion
from detr2d.decoder import DecoderLayer, class_head, refine
from detr2d.images import VOVNET_BGR, Normalization, Standardization
from detr2d.linear import Linear
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
    earlier. In training with ``denoising``, noisy true centres are asked about as well. Tokens are
    the map ``token_level``, the finest being 0. ``centre_step`` scales what the box heads say about
    the centre (1 as published, see ``DETR3D``); ``moving`` adds queries from the finest map, which
    the decoder corrects. Without ``past_gradients`` the earlier images do not train the backbone.
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
        token_level: int = 0,
        centre_step: float = 1.0,
        moving: MovingStart | None = None,
        past_gradients: bool = True,
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
        self.token_level = token_level
        self.centre_step = centre_step
        self.moving = moving
        self.past_gradients = past_gradients

    def forward(self, batch: SceneBatch) -> ScenePredictions:
        """Predictions of all layers; codes as ``MetricBox3D`` has them, centres in metres.

        In training noisy objects are asked about even if there are none: processes of one run have
        to have the same losses, in which they count objects together.
        """
        targets = batch.targets or ()
        if self.denoising is not None and self.training and targets:
            return self.denoise(batch, targets, draw_noise(targets, self.denoising.groups))
        memory, start, answers = self.look(batch)
        return replace(self.decode(start, memory, batch.rig), monocular=answers)

    def denoise(
        self, batch: SceneBatch, targets: Sequence[Targets], noise: Tensor
    ) -> ScenePredictions:
        """Predictions, and answers about the true objects moved by ``noise`` (see ``draw_noise``).

        Raises ValueError for a model that is built without denoising.
        """
        if self.denoising is None:
            raise ValueError("this PETRv2 is built without denoising queries")
        memory, start, answers = self.look(batch)
        noisy = noisy_objects(
            targets,
            noise,
            config=self.denoising,
            region=self.region,
            num_queries=start.reference.shape[1],
            num_classes=self.num_classes,
        )
        places = noisy.reference.to(start.reference)
        contents = start.content.new_zeros(*places.shape[:2], start.content.shape[-1])
        together = blank_start(contents, places, self.num_classes).joined(start)
        predictions = self.decode(together, memory, batch.rig, noisy.blocked)
        own, denoised = split_predictions(predictions, noisy)
        return replace(own, monocular=answers, denoised=denoised)

    def decode(
        self, start: QueryStart, memory: Memory, rig: CameraRig, blocked: Tensor | None = None
    ) -> ScenePredictions:
        """Predictions for queries of a start; ``blocked`` (Q, Q) hides queries from others."""
        query, reference = start.content, start.reference
        elapsed = seconds_between(rig).view(-1, 1, 1)
        query_pos = self.queries.positions(reference)
        logits, codes = [], []
        heads = zip(self.decoder, self.class_heads, self.box_heads, strict=True)
        for layer, classify, regress in heads:
            query, _ = layer(query, query_pos, reference, memory, blocked)
            state = self.norm(query)
            delta = at_least_float32(regress(state))
            delta = torch.cat([self.centre_step * delta[..., :3], delta[..., 3:]], dim=-1)
            code = refine(delta, reference)
            centre = self.region.to_metres(code[..., :3].sigmoid())
            velocity = code[..., 8:] / elapsed.to(code)
            change = torch.cat([code[..., 3:8], velocity], dim=-1)
            logits.append(start.logits + classify(state))
            codes.append(torch.cat([centre, start.codes + change], dim=-1))
        references = reference.detach().expand(len(logits) + 1, -1, -1, -1)
        return ScenePredictions(torch.stack(logits), torch.stack(codes), references)

    def look(self, batch: SceneBatch) -> tuple[Memory, QueryStart, MonocularMaps | None]:
        """Tokens of both moments, the queries to ask about them, and per-cell answers, if any."""
        encode = encode_cameras if self.past_gradients else encode_present
        pyramid = encode(batch.images, batch.rig, self.encode)
        canvas = (batch.images.shape[-2], batch.images.shape[-1])
        memory = self.tokens(pyramid.maps[self.token_level], batch.rig, canvas)
        content, reference = self.queries(len(batch))
        start = blank_start(content, reference, self.num_classes)
        if self.moving is None:
            return memory, start, None
        answers, found = self.moving(pyramid.maps[0], batch.rig, canvas)
        return memory, start.joined(found), answers

    def tokens(self, features: Tensor, rig: CameraRig, canvas: tuple[int, int]) -> Memory:
        """Features (B * 2 V, C, H, W) as tokens, view by view, with their guided positions."""
        tokens = view_tokens(features, self.projection, rig.present.shape)
        size = (tokens.shape[2], tokens.shape[3])
        padding = token_padding(rig, canvas, size)
        positions = self.guide(self.rays(rig, canvas, size), tokens) + self.cells(padding)
        return Memory(
            tokens=tokens.flatten(1, 3),
            positions=positions.flatten(1, 3).to(tokens),
            padding=lonely_tokens_seen(padding.flatten(1)),
            grid=tuple(padding.shape[1:]),
        )

    def encode(self, images: Tensor, image_sizes: Tensor) -> FeaturePyramid:
        """Features of images (N, 3, H, W) with valid areas ``image_sizes`` (N, 2)."""
        return self.neck(self.backbone(self.normalize(images, image_sizes)))


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
    token_level: int = 0
    """Which map the tokens are, the finest being 0 (released)."""
    finest_period: float = 1.0
    """Shortest wave of the query positions, in sides of the region; 1 as released."""
    centre_step: float = 1.0
    """Scale of the box heads' centre outputs; below 1 for short schedules from scratch."""
    past_gradients: bool = True
    """Whether the earlier images train the backbone too (released); without, steps are faster."""
    images: Normalization | Standardization = VOVNET_BGR
    """Normalisation by fixed means and deviations, or by those of each image."""
    monocular: MonocularConfig | None = None
    """Queries and supervision from the present images, for training from scratch."""
    num_detections: int = 300
    """Detections kept per scene."""

    def __post_init__(self) -> None:
        stages = len(self.backbone.out_stages)
        if not 0 <= self.token_level < stages:
            raise ValueError(
                f"token_level must be one of the neck's {stages} maps, got {self.token_level}"
            )

    def build(self, classes: tuple[str, ...]) -> PETRv2:
        """Build the model with random weights."""
        backbone, channels, layers = self.backbone.build(), self.channels, range(self.num_layers)
        return PETRv2(
            normalize=self.images.build(),
            backbone=backbone,
            neck=CPFPN(backbone.out_channels, channels),
            projection=Linear(channels, channels),
            rays=RayPositions(self.ray_region, self.depths, channels),
            guide=FeatureGate(channels),
            cells=RigSine(channels) if self.cells == "rig" else ViewSine(channels),
            queries=PointQueries(
                torch.rand(self.num_queries, 3), channels, finest_period=self.finest_period
            ),
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
            token_level=self.token_level,
            centre_step=self.centre_step,
            moving=self._build_moving(len(classes)),
            past_gradients=self.past_gradients,
        )

    def _build_moving(self, num_classes: int) -> MovingStart | None:
        sizes = {"channels": self.channels, "num_classes": num_classes}
        branch = build_monocular(self.monocular, self.region, **sizes)
        if branch is None:
            return None
        return MovingStart(branch, DisplacementVelocity(self.region, **sizes))

    def build_criterion(self, classes: tuple[str, ...]) -> SceneCriterion:
        """Focal and L1 with the paper's weights; velocity counts fully."""
        focal, codec, weights = FocalClasses(), MetricBox3D((1.0,) * 10), {"class": 2.0, "l1": 0.25}
        set_loss = SetCriterion(classes=focal, codec=codec, cost=weights, loss=weights)
        monocular = monocular_loss(self.monocular)
        if self.denoising is None:
            return SceneCriterion(set_loss, monocular=monocular)
        denoising = DenoisingLoss(
            self.denoising, classes=focal, codec=codec, class_weight=2.0, l1_weight=0.25
        )
        return SceneCriterion(set_loss, monocular=monocular, denoising=denoising)

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
