"""DINO: DETR with improved denoising anchor boxes for end-to-end object detection.

Zhang et al., ICLR 2023. Deformable DETR, two-stage, whose proposals give the boxes but not the
contents of queries (mixed query selection, section 3.4), whose boxes are trained through the next
layer too (look forward twice, section 3.5), with contrastive denoising (section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr2d.accumulation import Divisor
from detr2d.backbones.necks import FPN, LevelProjections, build_neck
from detr2d.backbones.resnet import ResNetConfig
from detr2d.backbones.swin import SwinConfig
from detr2d.boxes import NormalizedBox2D
from detr2d.checkpoints.dino import DINO_TABLE
from detr2d.checkpoints.rename import Table
from detr2d.config import SystemConfig
from detr2d.criterion import SetCriterion, cardinality_error
from detr2d.decoder import box_head, prior_bias, refine
from detr2d.deformable import DeformableConfig, MultiScaleMemory, PyramidTokens
from detr2d.denoising import (
    ContrastiveDenoising,
    DenoisingLoss,
    denoising_mask,
    split_denoising,
)
from detr2d.dense_loss import DenseLoss
from detr2d.dense_proposals import DenseHeads, DenseProposals
from detr2d.encoder import Encoder
from detr2d.images import NormalizeImages, StandardizeImages
from detr2d.losses import FocalClasses
from detr2d.positions import SinePositions, sine_embedding
from detr2d.postprocess import top_detections
from detr2d.proposals import (
    EncoderProposals,
    Proposals,
    TwoStageCriterion,
    best_logit,
    grid_anchors,
)
from detr2d.structures import (
    Detections,
    ImageBatch,
    Predictions,
    Targets,
    at_least_float32,
)

EPS = 1e-3  # of inverse sigmoids in the released code
COST_EPS = 1e-8  # in the logarithms of matching costs there
BOX_SLACK = 1e-6  # in the denominators of overlaps there


@dataclass(frozen=True)
class Start:
    """What enters the decoder.

    content (B, Q, C); logits (B, Q, K): what is known of the classes already, added to what the
    layers say; proposals: where the boxes come from; memory: what the queries look at.
    """

    content: Tensor
    logits: Tensor
    proposals: Proposals | DenseProposals
    memory: MultiScaleMemory


class MixedQueries(nn.Module):
    """Boxes of the best proposals, learned contents by rank (mixed query selection)."""

    def __init__(self, proposals: EncoderProposals, channels: int) -> None:
        super().__init__()
        self.proposals = proposals
        self.content = nn.Embedding(proposals.count, channels)

    def forward(self, memory: MultiScaleMemory) -> Start:
        """Queries of the chosen proposals, whose classes are not handed on."""
        chosen = self.proposals(memory.tokens, grid_anchors(memory)).select()
        batch, count = chosen.chosen.shape
        content = self.content.weight[:count].expand(batch, -1, -1)
        return Start(content, torch.zeros_like(chosen.logits), chosen, memory)


class DenseQueries(nn.Module):
    """Boxes, contents and classes of the best peaks of dense heads.

    The layers correct what the heads say and do not train the tokens, see ``DenseHeads``.
    """

    def __init__(self, proposals: DenseHeads) -> None:
        super().__init__()
        self.proposals = proposals

    def forward(self, memory: MultiScaleMemory) -> Start:
        """Queries of the peaks."""
        found = self.proposals(memory)
        return Start(found.content, found.logits - prior_bias(), found, memory.detached())


class BoxPositions(nn.Module):
    """Query positions of boxes: sine embedding and two linear layers (DAB-DETR, eq. 6)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.waves = channels // 2
        self.embed = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)
        )
        for linear in (self.embed[0], self.embed[2]):
            nn.init.xavier_uniform_(linear.get_parameter("weight"))

    def forward(self, boxes: Tensor) -> Tensor:
        """Positions (B, Q, C) of boxes (B, Q, 4), on the canvas: y is embedded before x."""
        x, y, width, height = boxes.unbind(-1)
        ordered = torch.stack([y, x, width, height], dim=-1)
        return self.embed(sine_embedding(ordered, self.waves, temperature=1e4, scale=2 * math.pi))


class DINO(nn.Module):
    """Backbone, projections, deformable encoder, mixed queries, and heads shared by all layers."""

    def __init__(
        self,
        *,
        normalize: nn.Module,
        backbone: nn.Module,
        neck: LevelProjections | FPN,
        tokens: PyramidTokens,
        encoder: Encoder,
        queries: MixedQueries | DenseQueries,
        denoising: ContrastiveDenoising | None,
        positions: BoxPositions,
        decoder: Sequence[nn.Module],
        decoder_norm: nn.Module,
        class_head: nn.Module,
        box_head: nn.Module,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.neck = neck
        self.tokens = tokens
        self.encoder = encoder
        self.queries = queries
        self.denoising = denoising
        self.positions = positions
        self.decoder = nn.ModuleList(decoder)
        self.decoder_norm = decoder_norm
        self.class_head = class_head
        self.box_head = box_head

    def forward(self, batch: ImageBatch) -> Predictions:
        """Predictions of all layers; in training, of denoising queries and proposals too."""
        start: Start = self.queries(self.look(batch))
        query, known, memory = start.content, start.logits, start.memory
        reference, mask, noised = start.proposals.codes.detach(), None, None
        if self.denoising is not None and self.training and batch.targets is not None:
            noised = self.denoising(batch.targets)
            mask = denoising_mask(noised.layout, query.shape[1], query.device)
            query = torch.cat([noised.query.to(query), query], dim=1)
            reference = torch.cat([noised.reference.to(reference), reference], dim=1)
            known = F.pad(known, (0, 0, noised.query.shape[1], 0))
        reference = reference.sigmoid()
        first_level = memory.valid_ratios[:, :1].repeat(1, 1, 2)
        logits, codes, references, places = [], [], [reference], []
        for layer in self.decoder:
            entered = reference.detach()
            query_pos = self.positions(entered * first_level)
            query, sampling_points = layer(query, query_pos, entered, memory, mask)
            seen = self.decoder_norm(query)
            logits.append(known + self.class_head(seen))
            # The reference still has its gradient here: this box trains the layer before, too.
            codes.append(self._refine(seen, reference))
            reference = self._refine(query, entered)
            references.append(reference)
            places.append(sampling_points)
        found = Predictions(
            torch.stack(logits),
            torch.stack(codes),
            torch.stack(references)[..., :2].detach(),
            torch.stack(places),
            proposals=start.proposals.predictions(),
        )
        return found if noised is None else split_denoising(found, noised.layout)

    def _refine(self, query: Tensor, reference: Tensor) -> Tensor:
        return refine(at_least_float32(self.box_head(query)), reference, EPS).sigmoid()

    def look(self, batch: ImageBatch) -> MultiScaleMemory:
        """Tokens of all levels that have looked at each other."""
        pyramid = self.neck(self.backbone(self.normalize(batch.images, batch.image_sizes)))
        return self.encoder(self.tokens(pyramid, batch.padding))


class DINOCriterion:
    """The set loss of decoder layers and of proposals, and that of denoising queries."""

    def __init__(self, stages: TwoStageCriterion, denoising: DenoisingLoss) -> None:
        self.stages = stages
        self.denoising = denoising

    def __call__(self, predictions: Predictions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Weighted scalar losses by name, those of denoising under ``denoising/``."""
        losses = self.stages(predictions, targets)
        if predictions.denoising is not None:
            found = self.denoising(predictions.denoising, targets)
            losses |= {f"denoising/{name}": value for name, value in found.items()}
        return losses

    def divisors(self, predictions: Predictions, batch: ImageBatch) -> dict[str, Divisor]:
        """Those of the set loss; denoising is a mean over groups, divided by the same numbers."""
        return self.stages.divisors(predictions, batch)


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """Settings of contrastive denoising; the defaults are the paper's."""

    count: int = 100
    """Half the number of denoising queries per image, about."""
    label_noise: float = 0.5
    """Twice the probability that a label is replaced by a random one."""
    box_noise: float = 0.4
    """Twice the largest move of a positive's corner, in sizes of its box."""


@dataclass(frozen=True, kw_only=True)
class DINOConfig(SystemConfig):
    """Settings of DINO; the defaults are the paper's with ResNet-50 and four scales."""

    backbone: ResNetConfig | SwinConfig = field(
        default_factory=lambda: ResNetConfig(depth=50, out_stages=(2, 3, 4), frozen_stages=1)
    )
    """Image backbone."""
    extra_levels: int = 1
    """Levels beyond the backbone's."""
    transformer: DeformableConfig = field(
        default_factory=lambda: DeformableConfig(hidden=2048, dropout=0.0)
    )
    """Encoder and decoder layers."""
    num_queries: int = 900
    """Objects that can be found in one image."""
    denoising: DenoisingConfig | None = field(default_factory=DenoisingConfig)
    """Denoising queries in training, or none."""
    neck: Literal["projections", "fpn"] = "projections"
    """Maps of one width each on its own (released), or mixed from the coarsest to the finest."""
    proposals: Literal["matched", "dense"] = "matched"
    """Train the best token of each object (released), or many: for training from scratch."""
    images: Literal["imagenet", "standardized"] = "imagenet"
    """Normalisation by ImageNet's mean and deviation, or by those of each image."""
    num_detections: int = 300
    """Detections kept per image."""

    def build(self, classes: tuple[str, ...]) -> DINO:
        """Build the model with random weights."""
        backbone, channels = self.backbone.build(), self.transformer.channels
        neck = build_neck(self.neck, backbone.out_channels, channels, self.extra_levels)
        positions = SinePositions(channels, temperature=20)
        return DINO(
            normalize=NormalizeImages() if self.images == "imagenet" else StandardizeImages(),
            backbone=backbone,
            neck=neck,
            tokens=PyramidTokens(positions, levels=neck.num_levels, channels=channels),
            encoder=self.transformer.build_encoder(neck.num_levels),
            queries=self._build_queries(len(classes)),
            denoising=self._build_denoising(len(classes)),
            positions=BoxPositions(channels),
            decoder=self.transformer.build_decoder(neck.num_levels),
            decoder_norm=nn.LayerNorm(channels),
            class_head=_class_head(channels, len(classes)),
            box_head=box_head(channels, NormalizedBox2D.code_size),
        )

    def _build_queries(self, num_classes: int) -> MixedQueries | DenseQueries:
        channels, count = self.transformer.channels, self.num_queries
        if self.proposals == "dense":
            heads = DenseHeads(channels=channels, num_classes=num_classes, count=count)
            return DenseQueries(heads)
        proposals = EncoderProposals(
            channels=channels,
            class_head=_class_head(channels, num_classes),
            box_head=box_head(channels, NormalizedBox2D.code_size),
            count=count,
            score=best_logit,
        )
        return MixedQueries(proposals, channels)

    def _build_denoising(self, num_classes: int) -> ContrastiveDenoising | None:
        if self.denoising is None:
            return None
        return ContrastiveDenoising(
            num_classes,
            self.transformer.channels,
            count=self.denoising.count,
            label_noise=self.denoising.label_noise,
            box_noise=self.denoising.box_noise,
            eps=EPS,
        )

    def build_criterion(self, classes: tuple[str, ...]) -> DINOCriterion:
        """Focal loss, L1 and generalised IoU with the released weights."""
        set_loss = SetCriterion(
            classes=FocalClasses(eps=COST_EPS),
            codec=NormalizedBox2D(slack=BOX_SLACK),
            cost={"class": 2.0, "l1": 5.0, "giou": 2.0},
            loss={"class": 1.0, "l1": 5.0, "giou": 2.0},
        )
        stages = TwoStageCriterion(set_loss, DenseLoss() if self.proposals == "dense" else set_loss)
        return DINOCriterion(stages, DenoisingLoss(set_loss))

    def official_table(self) -> Table:
        """Names in the authors' checkpoints."""
        return DINO_TABLE

    def statistics(self, predictions: Predictions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The last layer's error in the number of objects, for the log."""
        return {"cardinality_error": cardinality_error(predictions, targets)[-1]}

    def postprocess(self, predictions: Predictions) -> list[Detections]:
        """The best (query, class) pairs of the last layer, without suppression."""
        return top_detections(predictions, NormalizedBox2D(), self.num_detections)


def _class_head(channels: int, num_classes: int) -> nn.Linear:
    """A linear layer that says "nothing" at first."""
    head = nn.Linear(channels, num_classes)
    nn.init.constant_(head.bias, prior_bias())
    return head
