"""DETR for panoptic segmentation: a mask for every box, merged to one label per pixel.

Carion et al., ECCV 2020, section 4.4. DETR on things and stuff, and a mask head on the attention of
its last queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from detr2d.attention import spatial_memory
from detr2d.backbones.resnet import ResNetConfig
from detr2d.boxes import NormalizedBox2D
from detr2d.checkpoints.detr import PANOPTIC_TABLE
from detr2d.checkpoints.rename import Table
from detr2d.config import SystemConfig
from detr2d.criterion import SetCriterion, cardinality_error
from detr2d.decoder import perceptron
from detr2d.images import NormalizeImages, resize_padding
from detr2d.losses import MaskLosses, SoftmaxClasses
from detr2d.mask_head import AttentionMaps, MaskHead
from detr2d.positions import LearnedPositions, SinePositions
from detr2d.postprocess import softmax_detections
from detr2d.segments import binary_masks, merge_segments, pixel_logits
from detr2d.structures import (
    Detections,
    FeaturePyramid,
    ImageBatch,
    MaskPredictions,
    Predictions,
    Targets,
    at_least_float32,
)
from detr2d.transformer import Transformer, TransformerConfig


class PanopticDETR(nn.Module):
    """DETR whose last queries also look at the memory for their masks (figure 8)."""

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
        attention_maps: AttentionMaps,
        mask_head: MaskHead,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.projection = projection
        self.positions = positions
        self.transformer = transformer
        self.class_head = class_head
        self.box_head = box_head
        self.attention_maps = attention_maps
        self.mask_head = mask_head

    def forward(self, batch: ImageBatch) -> Predictions:
        """Predictions of all layers, with masks of the last."""
        features: FeaturePyramid = self.backbone(self.normalize(batch.images, batch.image_sizes))
        *finer, coarsest = features
        projected = self.projection(coarsest)  # (B, C, h, w)
        padding = resize_padding(batch.padding, *projected.shape[-2:])
        memory = spatial_memory(projected, padding, self.positions(padding))
        queries, memory = self.transformer(memory)
        attention = self.attention_maps(queries[-1], memory).unflatten(-1, projected.shape[-2:])
        masks = self.mask_head(projected, attention, finer[::-1])
        return Predictions(
            self.class_head(queries),
            at_least_float32(self.box_head(queries)).sigmoid(),
            masks=MaskPredictions(
                at_least_float32(masks),
                (batch.images.shape[-2], batch.images.shape[-1]),
                batch.image_sizes,
                batch.original_sizes,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class PanopticDETRConfig(SystemConfig):
    """Settings of panoptic DETR; the defaults are the paper's with ResNet-50."""

    backbone: ResNetConfig = field(
        default_factory=lambda: ResNetConfig(depth=50, out_stages=(1, 2, 3, 4), frozen_stages=1)
    )
    """Image backbone; its last stage feeds the transformer, the others the mask head."""
    positions: Literal["sine", "learned"] = "sine"
    """Position embedding of the tokens."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Encoder, decoder and queries."""
    num_things: int = 91
    """Labels below it are things, the others are stuff (official labels are COCO category ids)."""
    segment_score: float = 0.85
    """Least score of a query that becomes a panoptic segment."""

    def build(self, classes: tuple[str, ...]) -> PanopticDETR:
        """Build the model with random weights."""
        backbone, channels = self.backbone.build(), self.transformer.channels
        positions = SinePositions if self.positions == "sine" else LearnedPositions
        *finer, coarsest = backbone.out_channels
        return PanopticDETR(
            normalize=NormalizeImages(),
            backbone=backbone,
            projection=nn.Conv2d(coarsest, channels, 1),
            positions=positions(channels),
            transformer=self.transformer.build(),
            class_head=nn.Linear(channels, len(classes) + 1),
            box_head=perceptron(channels, NormalizedBox2D.code_size),
            attention_maps=AttentionMaps(channels, self.transformer.heads),
            mask_head=MaskHead(channels, self.transformer.heads, finer[::-1]),
        )

    def build_criterion(self, classes: tuple[str, ...]) -> SetCriterion:
        """DETR's losses and, for the last layer, focal and dice losses of masks."""
        return SetCriterion(
            classes=SoftmaxClasses(),
            codec=NormalizedBox2D(),
            masks=MaskLosses(),
            cost={"class": 1.0, "l1": 5.0, "giou": 2.0},
            loss={"class": 1.0, "l1": 5.0, "giou": 2.0, "mask": 1.0, "dice": 1.0},
        )

    def official_table(self) -> Table:
        """Names in the authors' checkpoints."""
        return PANOPTIC_TABLE

    def statistics(self, predictions: Predictions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The last layer's error in the number of objects, for the log."""
        return {"cardinality_error": cardinality_error(predictions, targets)[-1]}

    def postprocess(self, predictions: Predictions) -> list[Detections]:
        """The best class and the mask of every query, and the panoptic segments of all."""
        masks = predictions.masks
        if masks is None:
            raise ValueError("panoptic post-processing needs predictions with masks")
        return [
            self._finish(predictions.logits[-1, image], masks, image, found)
            for image, found in enumerate(softmax_detections(predictions, NormalizedBox2D()))
        ]

    def _finish(
        self, logits: Tensor, masks: MaskPredictions, image: int, found: Detections
    ) -> Detections:
        """Add masks and segments to the detections of one image; logits (Q, K + 1)."""
        height, width = (int(side) for side in masks.original_sizes[image].tolist())
        binary = binary_masks(pixel_logits(masks, image, found.queries), (height, width))
        scores, labels = at_least_float32(logits).softmax(-1).max(-1)  # "no object" takes part
        keep = (labels != logits.shape[-1] - 1) & (scores > self.segment_score)
        segments = merge_segments(
            pixel_logits(masks, image, keep.nonzero().squeeze(1)),
            labels[keep],
            scores[keep],
            labels[keep] >= self.num_things,
            (height, width),
        )
        return replace(found, masks=binary, segments=segments)
