"""DETR3D: 3D object detection from multi-view images via 3D-to-2D queries.

Wang et al., CoRL 2021. Queries carry a 3D reference point; every decoder layer projects it into the
cameras, samples image features there, and refines it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from det3d.boxes import MetricBox3D
from det3d.camera_encoder import encode_cameras
from det3d.camera_gather import camera_features
from det3d.camera_sampling import IndexedCameraSampling, RigFreeCameraSampling
from det3d.checkpoints.detr3d import detr3d_table
from det3d.criterion import SceneCriterion, ScenePredictions
from det3d.geometry import Region
from det3d.monocular import MonocularBranch, MonocularConfig, blank_start, build_monocular
from det3d.monocular_loss import monocular_loss
from det3d.postprocess import scene_detections
from det3d.structures import SceneBatch
from detr2d.backbones.necks import FPN
from detr2d.backbones.resnet import ResNetConfig
from detr2d.backbones.vovnet import VoVNetConfig
from detr2d.checkpoints.rename import Table
from detr2d.config import SystemConfig
from detr2d.criterion import SetCriterion
from detr2d.decoder import DecoderLayer, box_head, class_head, refine
from detr2d.images import (
    CAFFE_BGR,
    Normalization,
    NormalizeImages,
    Standardization,
    StandardizeImages,
)
from detr2d.losses import FocalClasses
from detr2d.queries import AnchorQueries, LearnedQueries
from detr2d.structures import (
    Detections,
    FeaturePyramid,
    Predictions,
    at_least_float32,
)


class DETR3D(nn.Module):
    """Backbone, neck, and a decoder whose cross-attention projects references into cameras.

    ``centre_step`` scales what the box heads say about the centre. One unit of its logit is up to a
    quarter of the region, 25 m: in short schedules with large rates the full step (1, as published)
    makes references jump by metres at every update. ``monocular`` adds queries from single images,
    whose classes and boxes the decoder corrects.
    """

    def __init__(
        self,
        *,
        normalize: NormalizeImages | StandardizeImages,
        backbone: nn.Module,
        neck: nn.Module,
        queries: LearnedQueries | AnchorQueries,
        decoder: list[DecoderLayer],
        num_classes: int,
        class_heads: list[nn.Module],
        box_heads: list[nn.Module],
        region: Region,
        centre_step: float = 1.0,
        monocular: MonocularBranch | None = None,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.neck = neck
        self.queries = queries
        self.decoder = nn.ModuleList(decoder)
        self.class_heads = nn.ModuleList(class_heads)
        self.box_heads = nn.ModuleList(box_heads)
        self.num_classes = num_classes
        self.region = region
        self.centre_step = centre_step
        self.monocular = monocular

    def forward(self, batch: SceneBatch) -> ScenePredictions:
        """Predictions of all layers; codes as ``MetricBox3D`` has them, centres in metres."""
        pyramid = self.look(batch)
        canvas = (batch.images.shape[-2], batch.images.shape[-1])
        memory = camera_features(pyramid.maps, batch.rig, canvas)
        query, reference = self.queries(len(batch))
        start, answers = blank_start(query, reference, self.num_classes), None
        if self.monocular is not None:
            answers, found = self.monocular(pyramid.maps[0], batch.rig, canvas)
            start = start.joined(found)
        query, reference = start.content, start.reference
        logits, codes, references, sampling_points = [], [], [reference], []
        heads = zip(self.decoder, self.class_heads, self.box_heads, strict=True)
        for layer, classify, regress in heads:
            query_pos = self.queries.positions(reference)
            query, points = layer(query, query_pos, reference, memory)
            delta = at_least_float32(regress(query))
            delta = torch.cat([self.centre_step * delta[..., :3], start.codes + delta[..., 3:]], -1)
            code = refine(delta, reference)
            centre = code[..., :3].sigmoid()
            logits.append(start.logits + classify(query))
            codes.append(torch.cat([self.region.to_metres(centre), code[..., 3:]], dim=-1))
            reference = centre.detach()
            references.append(reference)
            sampling_points.append(points)
        return ScenePredictions(
            torch.stack(logits),
            torch.stack(codes),
            torch.stack(references).detach(),
            torch.stack(sampling_points),
            monocular=answers,
        )

    def look(self, batch: SceneBatch) -> FeaturePyramid:
        """Image features (B * V, C, H_i, W_i) of all cameras, zeros for absent ones."""
        return encode_cameras(batch.images, batch.rig, self.encode)

    def encode(self, images: Tensor, image_sizes: Tensor) -> FeaturePyramid:
        """Features of images (N, 3, H, W) with valid areas ``image_sizes`` (N, 2)."""
        return self.neck(self.backbone(self.normalize(images, image_sizes)))


def ring_anchors(count: int, region: Region, height: float = -1.0) -> Tensor:
    """Anchors (count, 3) in the unit cube, on the ground around the origin, denser nearby.

    A sunflower spiral whose density falls with the distance. ``height`` is in metres above the ref
    frame's origin.
    """
    index = torch.arange(count) + 0.5
    radius = (index / count) ** 0.75 * min(region.upper[0], region.upper[1])
    angle = index * torch.pi * (3 - 5**0.5)
    metres = torch.stack(
        [radius * angle.cos(), radius * angle.sin(), torch.full_like(radius, height)], dim=-1
    )
    return region.to_unit(metres).clamp(0.01, 0.99)


@dataclass(frozen=True, kw_only=True)
class DETR3DConfig(SystemConfig):
    """Settings of DETR3D; the defaults are those of the released ResNet-101."""

    backbone: ResNetConfig | VoVNetConfig = field(
        default_factory=lambda: ResNetConfig(
            depth=101, layout="caffe", deformable_stages=(3, 4), frozen_stages=1
        )
    )
    """Image backbone."""
    extra_levels: int = 1
    """Stride-2 levels that the neck adds to the backbone's stages."""
    channels: int = 256
    """Width of features and queries."""
    num_queries: int = 900
    """Objects that can be found in one scene."""
    num_layers: int = 6
    """Decoder layers."""
    heads: int = 8
    """Attention heads, of self-attention and rig-free sampling."""
    hidden: int = 512
    """Width of the feed-forward blocks."""
    dropout: float = 0.1
    """Dropout in the decoder."""
    rig: Literal["indexed", "free"] = "indexed"
    """The paper's weights per camera index, or weights by geometry that fit any rig."""
    num_cameras: int = 6
    """Cameras that indexed weights are made for; rig-free sampling ignores it."""
    num_points: int = 4
    """Points per head of rig-free sampling; indexed sampling always has one."""
    region: Region = field(default_factory=Region)
    """Where objects can be, in the ref frame."""
    centre_step: float = 1.0
    """Scale of the box heads' centre outputs; below 1 for short schedules from scratch."""
    images: Normalization | Standardization = CAFFE_BGR
    """Normalisation by fixed means and deviations, or by those of each image."""
    monocular: MonocularConfig | None = None
    """Queries and supervision from single images, for training from scratch."""
    num_detections: int = 300
    """Detections kept per scene."""

    def build(self, classes: tuple[str, ...]) -> DETR3D:
        """Build the model with random weights."""
        backbone = self.backbone.build()
        neck = FPN(backbone.out_channels, self.channels, self.extra_levels)
        return DETR3D(
            normalize=self.images.build(),
            backbone=backbone,
            neck=neck,
            queries=self._build_queries(),
            decoder=[
                DecoderLayer(
                    self._build_sampling(neck.num_levels),
                    channels=self.channels,
                    heads=self.heads,
                    hidden=self.hidden,
                    dropout=self.dropout,
                )
                for _ in range(self.num_layers)
            ],
            num_classes=len(classes),
            class_heads=[class_head(self.channels, len(classes)) for _ in range(self.num_layers)],
            box_heads=[
                box_head(self.channels, MetricBox3D.code_size) for _ in range(self.num_layers)
            ],
            region=self.region,
            centre_step=self.centre_step,
            monocular=build_monocular(
                self.monocular, self.region, channels=self.channels, num_classes=len(classes)
            ),
        )

    def _build_queries(self) -> LearnedQueries | AnchorQueries:
        if self.rig == "indexed":
            return LearnedQueries(self.num_queries, self.channels, 3)
        height = self.monocular.ground + 1.0 if self.monocular else -1.0
        anchors = ring_anchors(self.num_queries, self.region, height)
        return AnchorQueries(anchors, self.channels)

    def _build_sampling(self, num_levels: int) -> nn.Module:
        if self.rig == "indexed":
            return IndexedCameraSampling(
                self.region,
                channels=self.channels,
                num_cameras=self.num_cameras,
                num_levels=num_levels,
                dropout=self.dropout,
            )
        return RigFreeCameraSampling(
            self.region,
            channels=self.channels,
            heads=self.heads,
            num_levels=num_levels,
            num_points=self.num_points,
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

        Raises ValueError for rig-free sampling, which they have no weights for.
        """
        if self.rig == "free":
            raise ValueError("official DETR3D weights are tied to six cameras: set rig to indexed")
        return detr3d_table(len(self.backbone.out_stages))

    def postprocess(self, predictions: Predictions) -> list[Detections]:
        """The best (query, class) pairs of the last layer, without suppression."""
        return scene_detections(predictions, self.num_detections)
