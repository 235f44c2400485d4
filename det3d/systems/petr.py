"""PETR: position embedding transformation for multi-view 3D object detection.

Liu et al., ECCV 2022. Every image token carries an embedding of the 3D points on its line of sight;
queries, embedded 3D points themselves, then find their tokens in all cameras by plain attention.
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
from det3d.checkpoints.petr import petr_table
from det3d.criterion import SceneCriterion, ScenePredictions
from det3d.geometry import Region
from det3d.monocular import MonocularBranch, MonocularConfig, blank_start, build_monocular
from det3d.monocular_loss import monocular_loss
from det3d.postprocess import scene_detections
from det3d.ray_positions import (
    Depths,
    RayPositions,
    RigSine,
    ViewSine,
    lonely_tokens_seen,
    token_padding,
    view_tokens,
)
from det3d.structures import SceneBatch
from detr2d.attention import DenseAttention, Memory
from detr2d.backbones.necks import CPFPN
from detr2d.backbones.resnet import ResNetConfig
from detr2d.backbones.vovnet import VoVNetConfig
from detr2d.checkpoints.rename import Table
from detr2d.config import SystemConfig
from detr2d.criterion import SetCriterion
from detr2d.decoder import DecoderLayer, box_head, class_head, refine
from detr2d.images import CAFFE_BGR, Normalization, Standardization
from detr2d.linear import Linear
from detr2d.losses import FocalClasses
from detr2d.queries import PointQueries
from detr2d.structures import Detections, FeaturePyramid, Predictions, at_least_float32


class PETR(nn.Module):
    """Backbone, neck, embedded tokens of all cameras, and a decoder over them.

    Heads may be one module for all layers, as in the released weights. References are not refined
    from layer to layer. Tokens are the map ``token_level``, the finest being 0. ``centre_step``
    scales what the box heads say about the centre (1 as published, see ``DETR3D``); ``monocular``
    adds queries from single images, made of the finest map, which the decoder corrects.
    """

    def __init__(
        self,
        *,
        normalize: nn.Module,
        backbone: nn.Module,
        neck: nn.Module,
        projection: nn.Module,
        rays: RayPositions,
        cells: RigSine | ViewSine,
        queries: PointQueries,
        decoder: Sequence[DecoderLayer],
        norm: nn.Module,
        class_heads: Sequence[nn.Module],
        box_heads: Sequence[nn.Module],
        region: Region,
        num_classes: int,
        token_level: int = 0,
        centre_step: float = 1.0,
        monocular: MonocularBranch | None = None,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.neck = neck
        self.projection = projection
        self.rays = rays
        self.cells = cells
        self.queries = queries
        self.decoder = nn.ModuleList(decoder)
        self.norm = norm
        self.class_heads = nn.ModuleList(class_heads)
        self.box_heads = nn.ModuleList(box_heads)
        self.region = region
        self.num_classes = num_classes
        self.token_level = token_level
        self.centre_step = centre_step
        self.monocular = monocular

    def forward(self, batch: SceneBatch) -> ScenePredictions:
        """Predictions of all layers; codes as ``MetricBox3D`` has them, centres in metres."""
        pyramid = encode_cameras(batch.images, batch.rig, self.encode)
        canvas = (batch.images.shape[-2], batch.images.shape[-1])
        memory = self.tokens(pyramid.maps[self.token_level], batch.rig, canvas)
        query, reference = self.queries(len(batch))
        start, answers = blank_start(query, reference, self.num_classes), None
        if self.monocular is not None:
            answers, found = self.monocular(pyramid.maps[0], batch.rig, canvas)
            start = start.joined(found)
        query, reference = start.content, start.reference
        query_pos = self.queries.positions(reference)
        logits, codes = [], []
        heads = zip(self.decoder, self.class_heads, self.box_heads, strict=True)
        for layer, classify, regress in heads:
            query, _ = layer(query, query_pos, reference, memory)
            state = self.norm(query)
            delta = at_least_float32(regress(state))
            delta = torch.cat([self.centre_step * delta[..., :3], start.codes + delta[..., 3:]], -1)
            code = refine(delta, reference)
            centre = self.region.to_metres(code[..., :3].sigmoid())
            logits.append(start.logits + classify(state))
            codes.append(torch.cat([centre, code[..., 3:]], dim=-1))
        references = reference.detach().expand(len(logits) + 1, -1, -1, -1)
        return ScenePredictions(
            torch.stack(logits), torch.stack(codes), references, monocular=answers
        )

    def tokens(self, features: Tensor, rig: CameraRig, canvas: tuple[int, int]) -> Memory:
        """Features (B * V, C, H, W) as tokens, view by view and row by row, with positions."""
        tokens = view_tokens(features, self.projection, rig.present.shape)
        size = (tokens.shape[2], tokens.shape[3])
        padding = token_padding(rig, canvas, size)
        positions = self.rays(rig, canvas, size) + self.cells(padding)
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
class PETRConfig(SystemConfig):
    """Settings of PETR; the defaults are those of the released R50-DCN p4."""

    backbone: ResNetConfig | VoVNetConfig = field(
        default_factory=lambda: ResNetConfig(
            depth=50, layout="caffe", deformable_stages=(3, 4), out_stages=(3, 4)
        )
    )
    """Image backbone."""
    neck: Literal["cpfpn", "none"] = "cpfpn"
    """Mix the backbone's stages into the finest (p4), or use its only stage as it is (c5)."""
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
    layer_heads: Literal["shared", "own"] = "shared"
    """One pair of heads for all layers (released), or a pair for each."""
    token_level: int = 0
    """Which map the tokens are, the finest being 0 (released)."""
    finest_period: float = 1.0
    """Shortest wave of the query positions, in sides of the region; 1 as released."""
    centre_step: float = 1.0
    """Scale of the box heads' centre outputs; below 1 for short schedules from scratch."""
    images: Normalization | Standardization = CAFFE_BGR
    """Normalisation by fixed means and deviations, or by those of each image."""
    monocular: MonocularConfig | None = None
    """Queries and supervision from single images, for training from scratch."""
    num_detections: int = 300
    """Detections kept per scene."""

    def __post_init__(self) -> None:
        stages = len(self.backbone.out_stages)
        if not 0 <= self.token_level < stages:
            raise ValueError(
                f"token_level must be one of the neck's {stages} maps, got {self.token_level}"
            )
        if self.monocular is not None and self.neck == "none":
            raise ValueError("the monocular branch needs a neck: set neck to cpfpn")

    def build(self, classes: tuple[str, ...]) -> PETR:
        """Build the model with random weights."""
        backbone, channels = self.backbone.build(), self.channels
        neck = CPFPN(backbone.out_channels, channels) if self.neck == "cpfpn" else nn.Identity()
        width = channels if self.neck == "cpfpn" else backbone.out_channels[0]
        copies = 1 if self.layer_heads == "shared" else self.num_layers
        repeats = self.num_layers // copies
        return PETR(
            normalize=self.images.build(),
            backbone=backbone,
            neck=neck,
            projection=Linear(width, channels),
            rays=RayPositions(self.ray_region, self.depths, channels),
            cells=RigSine(channels) if self.cells == "rig" else ViewSine(channels),
            queries=PointQueries(
                torch.rand(self.num_queries, 3), channels, finest_period=self.finest_period
            ),
            decoder=[self._build_layer() for _ in range(self.num_layers)],
            norm=nn.LayerNorm(channels),
            class_heads=[class_head(channels, len(classes)) for _ in range(copies)] * repeats,
            box_heads=[box_head(channels, MetricBox3D.code_size) for _ in range(copies)] * repeats,
            region=self.region,
            num_classes=len(classes),
            token_level=self.token_level,
            centre_step=self.centre_step,
            monocular=build_monocular(
                self.monocular, self.region, channels=channels, num_classes=len(classes)
            ),
        )

    def _build_layer(self) -> DecoderLayer:
        attention = DenseAttention(channels=self.channels, heads=self.heads, dropout=self.dropout)
        return DecoderLayer(
            attention,
            channels=self.channels,
            heads=self.heads,
            hidden=self.hidden,
            dropout=self.dropout,
        )

    def build_criterion(self, classes: tuple[str, ...]) -> SceneCriterion:
        """Focal and L1 with the paper's weights."""
        set_loss = SetCriterion(
            classes=FocalClasses(),
            codec=MetricBox3D(),
            cost={"class": 2.0, "l1": 0.25},
            loss={"class": 2.0, "l1": 0.25},
        )
        return SceneCriterion(set_loss, monocular=monocular_loss(self.monocular))

    def official_table(self) -> Table:
        """Names in the authors' checkpoints.

        Raises ValueError for cells that are numbered per camera, which they have no weights for.
        """
        if self.cells == "view":
            raise ValueError("official PETR weights number the cameras: set cells to rig")
        return petr_table()

    def postprocess(self, predictions: Predictions) -> list[Detections]:
        """The best (query, class) pairs of the last layer, without suppression."""
        return scene_detections(predictions, self.num_detections)
