"""DETR: end-to-end object detection with transformers.

Carion et al., ECCV 2020. A transformer turns the last feature map and a fixed set of learned
queries into as many boxes; a bipartite matching decides which query has to find which object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from detr2d.attention import Memory, spatial_memory
from detr2d.backbones.resnet import ResNetConfig
from detr2d.boxes import NormalizedBox2D
from detr2d.checkpoints.detr import DETR_TABLE
from detr2d.checkpoints.rename import Table
from detr2d.config import SystemConfig
from detr2d.criterion import SetCriterion, cardinality_error
from detr2d.decoder import perceptron
from detr2d.images import NormalizeImages, resize_padding
from detr2d.losses import SoftmaxClasses
from detr2d.positions import LearnedPositions, SinePositions
from detr2d.postprocess import softmax_detections
from detr2d.structures import (
    Detections,
    FeaturePyramid,
    ImageBatch,
    Predictions,
    Targets,
    at_least_float32,
)
from detr2d.transformer import Transformer, TransformerConfig


class DETR(nn.Module):
    """Backbone, projection, transformer, and heads that all decoder layers share (figure 2)."""

    def __init__(
        self,
        *,
        normalize: NormalizeImages,
        backbone: nn.Module,
        projection: nn.Module,
        positions: nn.Module,
        transformer: Transformer,
        class_head: nn.Module,
        box_head: nn.Module,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.projection = projection
        self.positions = positions
        self.transformer = transformer
        self.class_head = class_head
        self.box_head = box_head

    def forward(self, batch: ImageBatch) -> Predictions:
        """Predictions of all layers: logits over K classes and "no object", codes of boxes."""
        queries, _ = self.transformer(self.look(batch))
        boxes = at_least_float32(self.box_head(queries)).sigmoid()
        return Predictions(self.class_head(queries), boxes)

    def look(self, batch: ImageBatch) -> Memory:
        """Tokens of the last feature map with their places."""
        features: FeaturePyramid = self.backbone(self.normalize(batch.images, batch.image_sizes))
        projected = self.projection(features.maps[-1])  # (B, C, h, w)
        padding = resize_padding(batch.padding, *projected.shape[-2:])
        return spatial_memory(projected, padding, self.positions(padding))


@dataclass(frozen=True, kw_only=True)
class DETRConfig(SystemConfig):
    """Settings of DETR; the defaults are the paper's with ResNet-50."""

    backbone: ResNetConfig = field(
        default_factory=lambda: ResNetConfig(depth=50, out_stages=(4,), frozen_stages=1)
    )
    """Image backbone; its last stage is used."""
    positions: Literal["sine", "learned"] = "sine"
    """Position embedding of the tokens."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Encoder, decoder and queries."""

    def build(self, classes: tuple[str, ...]) -> DETR:
        """Build the model with random weights."""
        backbone, channels = self.backbone.build(), self.transformer.channels
        positions = SinePositions if self.positions == "sine" else LearnedPositions
        return DETR(
            normalize=NormalizeImages(),
            backbone=backbone,
            projection=nn.Conv2d(backbone.out_channels[-1], channels, 1),
            positions=positions(channels),
            transformer=self.transformer.build(),
            class_head=nn.Linear(channels, len(classes) + 1),
            box_head=perceptron(channels, NormalizedBox2D.code_size),
        )

    def build_criterion(self, classes: tuple[str, ...]) -> SetCriterion:
        """Cross entropy, L1 and generalised IoU with the paper's weights."""
        return SetCriterion(
            classes=SoftmaxClasses(),
            codec=NormalizedBox2D(),
            cost={"class": 1.0, "l1": 5.0, "giou": 2.0},
            loss={"class": 1.0, "l1": 5.0, "giou": 2.0},
        )

    def official_table(self) -> Table:
        """Names in the authors' checkpoints."""
        return DETR_TABLE

    def statistics(self, predictions: Predictions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The last layer's error in the number of objects, for the log."""
        return {"cardinality_error": cardinality_error(predictions, targets)[-1]}

    def postprocess(self, predictions: Predictions) -> list[Detections]:
        """The best class of every query of the last layer, without suppression."""
        return softmax_detections(predictions, NormalizedBox2D())
