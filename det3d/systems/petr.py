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
from det3d.checkpoints.petr import petr_table
from det3d.geometry import Region
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
from detr2d.losses import FocalClasses
from detr2d.queries import PointQueries
from detr2d.structures import Detections, FeaturePyramid, Predictions, at_least_float32


class PETR(nn.Module):
    """Backbone, neck, embedded tokens of all cameras, and a decoder over them.

    Heads may be one module for all layers, as in the released weights. References are not refined
    from layer to layer.
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

    def forward(self, batch: SceneBatch) -> Predictions:
        """Predictions of all layers; codes as ``MetricBox3D`` has them, centres in metres."""
        memory = self.look(batch)
        query, reference = self.queries(len(batch))
        query_pos = self.queries.positions(reference)
        logits, codes = [], []
        heads = zip(self.decoder, self.class_heads, self.box_heads, strict=True)
        for layer, classify, regress in heads:
            query, _ = layer(query, query_pos, reference, memory)
            state = self.norm(query)
            code = refine(at_least_float32(regress(state)), reference)
            centre = self.region.to_metres(code[..., :3].sigmoid())
            logits.append(classify(state))
            codes.append(torch.cat([centre, code[..., 3:]], dim=-1))
        references = reference.detach().expand(len(logits) + 1, -1, -1, -1)
        return Predictions(torch.stack(logits), torch.stack(codes), references)

    def look(self, batch: SceneBatch) -> Memory:
        """Tokens of all cameras, view by view and row by row, with their positions."""
        pyramid = encode_cameras(batch.images, batch.rig, self.encode)
        canvas = (batch.images.shape[-2], batch.images.shape[-1])
        tokens = view_tokens(pyramid.maps[0], self.projection, batch.rig.present.shape)
        size = (tokens.shape[2], tokens.shape[3])
        padding = token_padding(batch.rig, canvas, size)
        positions = self.rays(batch.rig, canvas, size) + self.cells(padding)
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
    images: Normalization | Standardization = CAFFE_BGR
    """Normalisation by fixed means and deviations, or by those of each image."""
    num_detections: int = 300
    """Detections kept per scene."""

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
            projection=nn.Linear(width, channels),
            rays=RayPositions(self.ray_region, self.depths, channels),
            cells=RigSine(channels) if self.cells == "rig" else ViewSine(channels),
            queries=PointQueries(torch.rand(self.num_queries, 3), channels),
            decoder=[self._build_layer() for _ in range(self.num_layers)],
            norm=nn.LayerNorm(channels),
            class_heads=[class_head(channels, len(classes)) for _ in range(copies)] * repeats,
            box_heads=[box_head(channels, MetricBox3D.code_size) for _ in range(copies)] * repeats,
            region=self.region,
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

    def build_criterion(self, classes: tuple[str, ...]) -> SetCriterion:
        """Focal and L1 with the paper's weights."""
        return SetCriterion(
            classes=FocalClasses(),
            codec=MetricBox3D(),
            cost={"class": 2.0, "l1": 0.25},
            loss={"class": 2.0, "l1": 0.25},
        )

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
