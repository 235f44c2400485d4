"""Deformable DETR: deformable transformers for end-to-end object detection.

Zhu et al., ICLR 2021. Tokens and queries look at a few places on all levels of a feature pyramid
instead of everywhere on one; boxes may be refined layer by layer, and queries may start from
proposals of the encoder (two-stage).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from detr2d.backbones.necks import FPN, LevelProjections, build_neck
from detr2d.backbones.resnet import ResNetConfig
from detr2d.boxes import NormalizedBox2D
from detr2d.checkpoints.deformable_detr import deformable_detr_table
from detr2d.checkpoints.rename import Table
from detr2d.config import SystemConfig
from detr2d.criterion import SetCriterion, cardinality_error
from detr2d.decoder import box_head, prior_bias, refine
from detr2d.deformable import DeformableConfig, MultiScaleMemory, PyramidTokens
from detr2d.dense_loss import DenseLoss
from detr2d.dense_proposals import DenseHeads
from detr2d.encoder import Encoder
from detr2d.images import NormalizeImages, StandardizeImages
from detr2d.losses import FocalClasses
from detr2d.positions import SinePositions, sine_embedding
from detr2d.postprocess import top_detections
from detr2d.proposals import (
    EncoderProposals,
    ObjectnessLoss,
    TwoStageCriterion,
    first_logit,
    grid_anchors,
    take_rows,
)
from detr2d.queries import LearnedQueries
from detr2d.structures import (
    Detections,
    ImageBatch,
    Predictions,
    Targets,
    at_least_float32,
)

COST_EPS = 1e-8  # in the logarithms of matching costs, as in the released code


@dataclass(frozen=True)
class Start:
    """What enters the decoder.

    query, query_pos (B, Q, C); reference (B, Q, 2 or 4) in [0, 1]: a point or a box; memory: what
    the queries look at; proposals: the encoder's predictions that it was made from, if any; logits
    (B, Q, K): what is known of the classes already, added to what the layers say.
    """

    query: Tensor
    query_pos: Tensor
    reference: Tensor
    memory: MultiScaleMemory
    proposals: Predictions | None = None
    logits: Tensor | float = 0.0


class LearnedStart(nn.Module):
    """Learned queries and points, the same for all images (single stage)."""

    def __init__(self, queries: LearnedQueries) -> None:
        super().__init__()
        self.learned = queries

    def forward(self, memory: MultiScaleMemory) -> Start:
        """The queries of as many images as there are in the memory."""
        query, reference = self.learned(len(memory.tokens))
        return Start(query, self.learned.positions(reference), reference, memory)


class ProposedStart(nn.Module):
    """Queries and their positions made of the encoder's best boxes (two-stage, appendix A.4)."""

    def __init__(self, proposals: EncoderProposals, channels: int) -> None:
        super().__init__()
        self.proposals = proposals
        self.embed = nn.Linear(2 * channels, 2 * channels)
        self.norm = nn.LayerNorm(2 * channels)
        nn.init.xavier_uniform_(self.embed.weight)

    def forward(self, memory: MultiScaleMemory) -> Start:
        """Queries of the boxes that the tokens propose."""
        proposals = self.proposals(memory.tokens, grid_anchors(memory))
        reference = take_rows(proposals.codes, proposals.chosen).detach().sigmoid()
        waves = sine_embedding(
            reference, self.embed.in_features // 4, temperature=1e4, scale=2 * math.pi
        )
        query_pos, query = self.norm(self.embed(waves)).chunk(2, dim=-1)
        return Start(query, query_pos, reference, memory, proposals.predictions())


class DenseStart(nn.Module):
    """Queries of the best peaks of dense heads, their positions made of the boxes.

    The layers correct what the heads say and do not train the tokens, see ``DenseHeads``.
    """

    def __init__(self, proposals: DenseHeads, channels: int) -> None:
        super().__init__()
        self.proposals = proposals
        self.embed = nn.Linear(2 * channels, channels)
        self.norm = nn.LayerNorm(channels)
        nn.init.xavier_uniform_(self.embed.weight)

    def forward(self, memory: MultiScaleMemory) -> Start:
        """Queries of the boxes that the peaks propose."""
        found = self.proposals(memory)
        waves = sine_embedding(
            found.boxes, self.embed.out_features // 2, temperature=1e4, scale=2 * math.pi
        )
        query_pos = self.norm(self.embed(waves))
        return Start(
            found.content,
            query_pos,
            found.boxes,
            memory.detached(),
            found.predictions(),
            found.logits - prior_bias(),
        )


class DeformableDETR(nn.Module):
    """Backbone, projections, deformable transformer and heads, one for all layers or one each."""

    def __init__(
        self,
        *,
        normalize: nn.Module,
        backbone: nn.Module,
        neck: LevelProjections | FPN,
        tokens: PyramidTokens,
        encoder: Encoder,
        queries: nn.Module,
        decoder: Sequence[nn.Module],
        class_heads: Sequence[nn.Module],
        box_heads: Sequence[nn.Module],
        refine_boxes: bool,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.neck = neck
        self.tokens = tokens
        self.encoder = encoder
        self.queries = queries
        self.decoder = nn.ModuleList(decoder)
        self.class_heads = nn.ModuleList(class_heads)
        self.box_heads = nn.ModuleList(box_heads)
        self.refine_boxes = refine_boxes

    def forward(self, batch: ImageBatch) -> Predictions:
        """Predictions of all layers: logits (sigmoid classes) and codes of boxes."""
        start: Start = self.queries(self.look(batch))
        query, reference = start.query, start.reference
        logits, codes, references, places = [], [], [reference], []
        repeats = len(self.decoder) // len(self.class_heads)
        heads = zip([*self.class_heads] * repeats, [*self.box_heads] * repeats, strict=True)
        for layer, (classify, regress) in zip(self.decoder, heads, strict=True):
            query, sampling_points = layer(query, start.query_pos, reference, start.memory)
            code = refine(at_least_float32(regress(query)), reference).sigmoid()
            if self.refine_boxes:
                reference = code.detach()
            logits.append(start.logits + classify(query))
            codes.append(code)
            references.append(reference)
            places.append(sampling_points)
        return Predictions(
            torch.stack(logits),
            torch.stack(codes),
            torch.stack([reference[..., :2] for reference in references]).detach(),
            torch.stack(places),
            proposals=start.proposals,
        )

    def look(self, batch: ImageBatch) -> MultiScaleMemory:
        """Tokens of all levels that have looked at each other."""
        pyramid = self.neck(self.backbone(self.normalize(batch.images, batch.image_sizes)))
        return self.encoder(self.tokens(pyramid, batch.padding))


@dataclass(frozen=True, kw_only=True)
class DeformableDETRConfig(SystemConfig):
    """Settings of Deformable DETR; the defaults are the paper's, multi-scale, single stage."""

    backbone: ResNetConfig = field(
        default_factory=lambda: ResNetConfig(depth=50, out_stages=(2, 3, 4), frozen_stages=1)
    )
    """Image backbone."""
    extra_levels: int = 1
    """Levels beyond the backbone's."""
    transformer: DeformableConfig = field(default_factory=DeformableConfig)
    """Encoder and decoder layers."""
    num_queries: int = 300
    """Objects that can be found in one image."""
    refine_boxes: bool = False
    """Each layer starts from the boxes of the one before, with heads of its own."""
    two_stage: bool = False
    """Queries start from proposals of the encoder; needs ``refine_boxes``."""
    neck: Literal["projections", "fpn"] = "projections"
    """Maps of one width each on its own (released), or mixed from the coarsest to the finest."""
    proposals: Literal["matched", "dense"] = "matched"
    """Two-stage: train the best token of each object (released), or many, from scratch."""
    images: Literal["imagenet", "standardized"] = "imagenet"
    """Normalisation by ImageNet's mean and deviation, or by those of each image."""
    num_detections: int = 100
    """Detections kept per image."""

    def __post_init__(self) -> None:
        if self.two_stage and not self.refine_boxes and self.proposals == "matched":
            raise ValueError("system.two_stage needs system.refine_boxes, as in the paper")
        if self.proposals == "dense" and not self.two_stage:
            raise ValueError("system.proposals is of the first stage: it needs system.two_stage")

    def build(self, classes: tuple[str, ...]) -> DeformableDETR:
        """Build the model with random weights."""
        backbone, channels = self.backbone.build(), self.transformer.channels
        neck = build_neck(self.neck, backbone.out_channels, channels, self.extra_levels)
        positions = SinePositions(channels, offset=-0.5)
        num_heads = self.transformer.decoder_layers if self.refine_boxes else 1
        heads = [self._build_heads(len(classes), layer) for layer in range(num_heads)]
        return DeformableDETR(
            normalize=NormalizeImages() if self.images == "imagenet" else StandardizeImages(),
            backbone=backbone,
            neck=neck,
            tokens=PyramidTokens(positions, levels=neck.num_levels, channels=channels),
            encoder=self.transformer.build_encoder(neck.num_levels),
            queries=self._build_queries(len(classes)),
            decoder=self.transformer.build_decoder(neck.num_levels),
            class_heads=[class_head for class_head, _ in heads],
            box_heads=[head for _, head in heads],
            refine_boxes=self.refine_boxes,
        )

    def _build_queries(self, num_classes: int) -> nn.Module:
        channels = self.transformer.channels
        if not self.two_stage:
            return LearnedStart(LearnedQueries(self.num_queries, channels, 2))
        if self.proposals == "dense":
            dense = DenseHeads(channels=channels, num_classes=num_classes, count=self.num_queries)
            return DenseStart(dense, channels)
        class_head, proposal_head = self._build_heads(num_classes, layer=1)
        proposals = EncoderProposals(
            channels=channels,
            class_head=class_head,
            box_head=proposal_head,
            count=self.num_queries,
            score=first_logit,
        )
        return ProposedStart(proposals, channels)

    def _build_heads(self, num_classes: int, layer: int) -> tuple[nn.Linear, nn.Sequential]:
        """Heads that say "nothing" at first, and whose first boxes are small or the references."""
        channels = self.transformer.channels
        class_head, head = nn.Linear(channels, num_classes), box_head(channels, 4)
        nn.init.constant_(class_head.bias, prior_bias())
        if layer == 0 and not self.two_stage:
            nn.init.constant_(head[-1].get_parameter("bias")[2:], -2.0)
        return class_head, head

    def build_criterion(self, classes: tuple[str, ...]) -> TwoStageCriterion:
        """Focal loss, L1 and generalised IoU with the paper's weights."""
        weights = {"class": 2.0, "l1": 5.0, "giou": 2.0}
        set_loss = SetCriterion(
            classes=FocalClasses(eps=COST_EPS), codec=NormalizedBox2D(), cost=weights, loss=weights
        )
        dense = self.proposals == "dense"
        return TwoStageCriterion(set_loss, DenseLoss() if dense else ObjectnessLoss(set_loss))

    def official_table(self) -> Table:
        """Names in the authors' checkpoints."""
        return deformable_detr_table(
            decoder_layers=self.transformer.decoder_layers, separate_heads=self.refine_boxes
        )

    def statistics(self, predictions: Predictions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The last layer's error in the number of objects, for the log."""
        return {"cardinality_error": cardinality_error(predictions, targets)[-1]}

    def postprocess(self, predictions: Predictions) -> list[Detections]:
        """The best (query, class) pairs of the last layer, without suppression."""
        return top_detections(predictions, NormalizedBox2D(), self.num_detections)
