"""What single images answer: which objects are centred at this pixel, and what are their boxes?

DETR3D starts from FCOS3D weights (Wang et al., ICCVW 2021), whose features already answer these
questions. Training from scratch asks them directly: dense heads on the finest map predict classes
and a 3D box per pixel, and the best pixels start queries, as the two-stage form of Deformable DETR
(section 4.2) does with its encoder. The answers are trained by ``det3d.monocular_loss``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det3d.boxes import MetricBox3D
from det3d.camera_encoder import apply_to_present
from det3d.cameras import CameraRig
from det3d.geometry import Region
from det3d.view_rays import RayEmbedding, cell_centres, headings, turn, view_rays
from detr2d.backbones.batch_norm import BatchNorm2d
from detr2d.constants import constant
from detr2d.structures import Batch, at_least_float32

ANSWER_SIZE = 12  # entries of a cell's answer, see MonocularMaps
FARTHEST = 100.0  # metres; larger depths that a pixel answers are clamped


@dataclass(frozen=True, kw_only=True)
class MonocularConfig:
    """Settings of the monocular branch."""

    weight: float = 1.0
    """Weight of the per-pixel losses."""
    ground: float = 0.0
    """Height of the road in the ref frame, in metres; 0 for ego frames, about -1.84 for lidars."""
    num_queries: int = 150
    """Queries started from the best pixels, beside the learned ones."""


@dataclass(frozen=True)
class MonocularMaps(Batch):
    """Per-cell answers of all cameras on a map of H x W cells that covers the canvas.

    logits (B, V, K, H, W) before the sigmoid. answers (B, V, 12, H, W): from the cell's centre to
    the projection of the box's centre (du, dv), in cells; log of the metres that a cell is wide at
    its depth, which is what an apparent size tells whatever the focal length; log length, log
    width, log height; (cos, sin) of the yaw and velocity (along, left) in m/s, both relative to the
    heading of the cell's ray; from the cell's centre to the projection of the middle of the box's
    lower face, downwards in cells; logit of the trust in the depth that this gives. rig:
    calibration on the canvas of ``canvas`` = (height, width) pixels; ground: height of the road in
    ref.
    """

    logits: Tensor
    answers: Tensor
    rig: CameraRig
    canvas: tuple[int, int]
    ground: float


@dataclass(frozen=True)
class QueryStart(Batch):
    """What decoder layers start from and refine.

    content (B, Q, C); reference (B, Q, 3) in the unit cube; logits (B, Q, K) are added to those of
    every layer; codes (B, Q, D - 3) to the entries behind the centre.
    """

    content: Tensor
    reference: Tensor
    logits: Tensor
    codes: Tensor

    def joined(self, other: QueryStart) -> QueryStart:
        """Both sets of queries, one after the other."""
        return QueryStart(
            torch.cat([self.content, other.content], 1),
            torch.cat([self.reference, other.reference], 1),
            torch.cat([self.logits, other.logits], 1),
            torch.cat([self.codes, other.codes], 1),
        )


def blank_start(content: Tensor, reference: Tensor, num_classes: int) -> QueryStart:
    """A start that says nothing of classes and boxes: what learned queries have."""
    logits = reference.new_zeros(*reference.shape[:2], num_classes)
    codes = reference.new_zeros(*reference.shape[:2], MetricBox3D.code_size - 3)
    return QueryStart(content, reference, logits, codes)


class MonocularBranch(nn.Module):
    """Dense heads on one feature map, and queries made from the best of its cells.

    A cell whose class score is the highest among its neighbours becomes a query: the centre that it
    answers is the reference, and its feature, class logits and box are what the decoder refines.
    Queries are ordered by score, so the order of the cameras does not matter.
    """

    def __init__(
        self,
        region: Region,
        *,
        channels: int,
        num_classes: int,
        num_queries: int,
        ground: float,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        self.region = region
        self.num_queries = num_queries
        self.ground = ground
        self.prior = -math.log((1 - prior) / prior)
        self.rays = RayEmbedding(channels)
        self.tower = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.classify = nn.Conv2d(channels, num_classes, 1)
        self.locate = nn.Conv2d(channels, ANSWER_SIZE, 1)
        self.content = nn.Linear(channels, channels)
        for head, bias in ((self.classify, self.prior), (self.locate, 0.0)):
            nn.init.normal_(head.weight, std=0.01)
            head.bias = nn.Parameter(torch.full((head.out_channels,), bias))

    def forward(
        self, features: Tensor, rig: CameraRig, canvas: tuple[int, int]
    ) -> tuple[MonocularMaps, QueryStart]:
        """Answers for features (B * V, C, H, W) that cover the canvas, and the queries they start.

        Nothing flows back from the queries' references, logits and codes to the answers.
        """
        features = apply_to_present(self.rays(features, rig, canvas), rig, self.tower)
        lead = rig.present.shape
        maps = MonocularMaps(
            at_least_float32(self.classify(features)).unflatten(0, lead),
            at_least_float32(self.locate(features)).unflatten(0, lead),
            rig,
            canvas,
            self.ground,
        )
        return maps, self.start(maps, features)

    def start(self, maps: MonocularMaps, features: Tensor) -> QueryStart:
        """Queries of the best cells of maps made from features (B * V, C, H, W), best first."""
        lead = maps.rig.present.shape
        scores = maps.logits.detach().amax(2)  # (B, V, H, W)
        peak = F.max_pool2d(scores, 3, stride=1, padding=1) == scores
        scores = scores.masked_fill(~peak, -1e4)
        scores = scores.masked_fill(~maps.rig.present[..., None, None], -2e4).flatten(1)
        best = scores.topk(min(self.num_queries, scores.shape[1]), dim=1).indices

        def choose(table: Tensor) -> Tensor:
            """Rows (B, Q, n) of the best cells of a map (B, V, n, H, W)."""
            rows = table.movedim(2, -1).flatten(1, 3)
            return rows.gather(1, best.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))

        codes = choose(decode_answers(maps).detach())
        reference = self.region.to_unit(codes[..., :3]).clamp(1e-3, 1 - 1e-3)
        content = self.content(choose(features.unflatten(0, lead)))
        logits = choose(maps.logits.detach()) - self.prior  # the class heads begin at the prior
        return QueryStart(content, reference, logits, codes[..., 3:])


def build_monocular(
    settings: MonocularConfig | None, region: Region, *, channels: int, num_classes: int
) -> MonocularBranch | None:
    """The branch that ``settings`` ask for, on maps of ``channels``; None without settings."""
    if settings is None:
        return None
    return MonocularBranch(
        region,
        channels=channels,
        num_classes=num_classes,
        num_queries=settings.num_queries,
        ground=settings.ground,
    )


def decode_answers(maps: MonocularMaps) -> Tensor:
    """Codes (B, V, 10, H, W) as ``MetricBox3D`` has them, in ref, of all cells' answers."""
    answers = maps.answers.flatten(3).transpose(2, 3)  # (B, V, H W, 12)
    cell = constant(cell_size(maps.canvas, maps.answers), answers)
    centres = cell_centres(maps.canvas, maps.answers).to(answers)
    depth = answered_depth(maps).flatten(2).exp()
    centre = maps.rig.unproject(centres + cell * answers[..., :2], depth)
    heading = headings(view_rays(maps.rig, centres))
    yaw = turn(F.normalize(answers[..., 6:8], dim=-1), heading)
    velocity = turn(answers[..., 8:10], heading)
    codes = torch.cat([centre, answers[..., 3:6], yaw.flip(-1), velocity], dim=-1)
    return codes.transpose(2, 3).unflatten(3, maps.answers.shape[-2:])


def answered_depth(maps: MonocularMaps) -> Tensor:
    """Log metres (B, V, H, W) of depth: what size and ground contact say, weighed by trust.

    An apparent size tells the depth through the focal length; the lower face of a box stands on the
    road, so its pixel tells the depth through the camera's height. MonoFlex (Zhang et al., CVPR
    2021), section 3.3, weighs such estimates likewise.
    """
    cell = constant(cell_size(maps.canvas, maps.answers), maps.answers)
    focal = maps.rig.intrinsics[..., 0, 0] / cell[0]  # cells that a metre is wide at one metre
    by_size = maps.answers[:, :, 2] + focal.log()[..., None, None]
    centres = cell_centres(maps.canvas, maps.answers).to(cell)
    below = maps.answers[:, :, 10].flatten(2)  # (B, V, H W)
    pixels = torch.stack([centres[:, 0].expand_as(below), centres[:, 1] + cell[1] * below], dim=-1)
    by_ground = ground_depth(maps.rig, pixels, maps.ground).log().view_as(by_size)
    trust = maps.answers[:, :, 11].sigmoid()
    return (trust * by_ground + (1 - trust) * by_size).clamp(max=math.log(FARTHEST))


def ground_depth(rig: CameraRig, pixels: Tensor, ground: float) -> Tensor:
    """Depth (B, V, N) in metres at which rays through pixels (B, V, N, 2) meet the road.

    The road is z = ``ground`` in ref. Rays that do not meet it before ``FARTHEST`` give that.
    """
    depth = torch.ones_like(pixels[..., 0])
    origin = rig.unproject(pixels, torch.zeros_like(depth))
    ray = rig.unproject(pixels, depth) - origin
    height = (origin[..., 2] - ground).clamp(min=0.1)
    return height / torch.maximum(-ray[..., 2], height / FARTHEST)


def cell_size(canvas: tuple[int, int], like: Tensor) -> tuple[float, float]:
    """Width and height in pixels of the cells of a map (..., H, W) that covers the canvas."""
    return canvas[1] / like.shape[-1], canvas[0] / like.shape[-2]
