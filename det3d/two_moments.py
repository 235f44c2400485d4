"""Two moments as one rig: its halves, the time between them, and velocities as displacements.

PETRv2 (Liu et al., ICCV 2023), section 3.2, brings the earlier cameras into the present ref frame
(temporal alignment). What still moves there moves on its own, so a velocity is a displacement over
the time between: BEVDet4D (Huang & Huang, 2022) shows that this is easier to learn than a velocity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det3d.camera_encoder import encode_cameras
from det3d.cameras import CameraRig
from det3d.geometry import Region
from det3d.monocular import MonocularBranch, MonocularMaps, QueryStart
from det3d.view_rays import headings, turn, unturn
from detr2d.decoder import prior_bias
from detr2d.structures import FeaturePyramid, at_least_float32

USUAL_SPEED = 3.0  # m/s, spread of the speeds that an untrained association expects
STRANGER = -5.0  # log plausibility that an object had no query earlier, untrained
PAIR_SIZE, MOTION_SIZE = 11, 9  # entries that describe a pair and a motion
UNSEEN = -1e4  # log plausibility of pairs without an earlier image


def halves(rig: CameraRig) -> tuple[CameraRig, CameraRig]:
    """The cameras now and the same ones earlier. Raises ValueError for an odd number."""
    if rig.num_cameras % 2:
        raise ValueError(
            f"PETRv2 needs each camera twice, now and earlier; the rig has {rig.num_cameras}: "
            "set data.previous"
        )
    half = rig.num_cameras // 2
    return rig.part(0, half), rig.part(half, half)


def seconds_between(rig: CameraRig) -> Tensor:
    """Mean seconds (B,) from the earlier to the present images, over cameras present in both.

    One second where a scene has no such camera. Raises ValueError for an odd number of cameras.
    """
    now, earlier = halves(rig)
    both = (now.present & earlier.present).to(now.timestamps)
    count = both.sum(1)
    mean = ((now.timestamps - earlier.timestamps) * both).sum(1) / count.clamp(min=1)
    return torch.where(count > 0, mean, torch.ones_like(mean))


def encode_present(
    images: Tensor, rig: CameraRig, encode: Callable[[Tensor, Tensor], FeaturePyramid]
) -> FeaturePyramid:
    """As ``encode_cameras``, without gradients into the earlier half: a third of its cost."""
    now, earlier = halves(rig)
    first, second = images.chunk(2, dim=1)
    present = encode_cameras(first, now, encode)
    with torch.no_grad():
        past = encode_cameras(second, earlier, encode)
    lead = now.present.shape
    pairs = zip(present, past, strict=True)
    both = [torch.cat([a.unflatten(0, lead), b.unflatten(0, lead)], 1) for a, b in pairs]
    return FeaturePyramid(tuple(maps.flatten(0, 1) for maps in both))


class MovingStart(nn.Module):
    """Queries that the present images start, with velocities told by those of the earlier ones."""

    def __init__(self, monocular: MonocularBranch, displacements: DisplacementVelocity) -> None:
        super().__init__()
        self.monocular = monocular
        self.displacements = displacements

    def forward(
        self, features: Tensor, rig: CameraRig, canvas: tuple[int, int]
    ) -> tuple[MonocularMaps, QueryStart]:
        """Answers of the present cameras, and their queries, from features (B * 2 V, C, H, W).

        Only what single images answer now is trained there; earlier answers pass no gradients.
        """
        now, earlier = halves(rig)
        first, second = features.unflatten(0, rig.present.shape).chunk(2, dim=1)
        maps, start = self.monocular(first.flatten(0, 1), now, canvas)
        with torch.no_grad():
            _, before = self.monocular(second.flatten(0, 1), earlier, canvas)
        seen = earlier.present.any(1)
        return maps, self.displacements(start, before, seconds_between(rig), seen)


class DisplacementVelocity(nn.Module):
    """Velocities of queries from where the same objects started queries earlier.

    Every present query is associated with all earlier ones and with none, by softmax over how
    plausible each pair is as one object (speed, class, score, size, heading, looks). Untrained,
    slow pairs of one class are; a small network corrects that. The expected displacement over
    the elapsed time is then mixed, along and across the line of sight from ref's origin, with what
    a single image says of the velocity: depths are less certain than directions.
    """

    def __init__(
        self, region: Region, *, channels: int, num_classes: int, hidden: int = 64
    ) -> None:
        super().__init__()
        self.region = region
        self.pair = nn.Sequential(
            nn.Linear(PAIR_SIZE, hidden // 2), nn.ReLU(inplace=True), nn.Linear(hidden // 2, 1)
        )
        self.motion = nn.Sequential(
            nn.Linear(MOTION_SIZE + num_classes + channels, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, 4),
        )
        self.stranger = nn.Parameter(torch.tensor(STRANGER))
        for parameter in (*self.pair[-1].parameters(), *self.motion[-1].parameters()):
            nn.init.zeros_(parameter)

    def forward(
        self, now: QueryStart, before: QueryStart, elapsed: Tensor, seen: Tensor
    ) -> QueryStart:
        """``now`` with other velocities (the last two entries of its codes).

        Both starts are in the present ref frame. elapsed (B,) in seconds; seen (B,) bool: False
        where all earlier cameras are absent, which leaves what single images say and their bias.
        A scene's first frame has its own images there, so it sees no motion; their age tells.
        """
        here = self.region.to_metres(at_least_float32(now.reference))  # (B, Q, 3)
        there = self.region.to_metres(at_least_float32(before.reference))  # (B, M, 3)
        elapsed = elapsed.to(here).view(-1, 1, 1)
        sight = headings(here)  # (B, Q, 2)
        away = here.unsqueeze(2) - there.unsqueeze(1)  # (B, Q, M, 3)
        speeds = unturn(away[..., :2], sight.unsqueeze(2)) / elapsed.unsqueeze(-1)
        share = self.associate(now, before, speeds, away[..., 2], seen)  # (B, Q, M + 1)
        alone = unturn(now.codes[..., 5:7], sight)  # (B, Q, 2): along, left
        options = torch.cat([speeds, alone.unsqueeze(2)], dim=2)
        expected = (share.unsqueeze(-1) * options).sum(2)
        spread = (share.unsqueeze(-1) * (options - expected.unsqueeze(2)) ** 2).sum(2)

        facts = [expected / 10, alone / 10, (spread + 1e-2).sqrt() / 10, share[..., -1:]]
        range_ = here[..., :2].norm(dim=-1, keepdim=True).clamp(min=1).log()
        facts += [range_, (elapsed - 0.5).expand_as(range_)]
        classes = now.logits.softmax(-1)
        mix = self.motion(torch.cat([*facts, classes, now.content.to(classes)], dim=-1))
        trust, bias = at_least_float32(mix).chunk(2, dim=-1)
        velocity = alone + trust.sigmoid() * (expected - alone) + bias
        codes = torch.cat([now.codes[..., :5], turn(velocity, sight)], dim=-1)
        return replace(now, codes=codes)

    def associate(
        self, now: QueryStart, before: QueryStart, speeds: Tensor, climb: Tensor, seen: Tensor
    ) -> Tensor:
        """Shares (B, Q, M + 1), which sum to 1: each earlier query, and none of them.

        speeds (B, Q, M, 2) in m/s and climb (B, Q, M) in metres if a pair were one object.
        """
        score = F.logsigmoid(before.logits + prior_bias())  # (B, M, K)
        classes = now.logits.log_softmax(-1)
        alike = torch.logsumexp(classes.unsqueeze(2) + score.unsqueeze(1), -1)  # (B, Q, M)
        speed = speeds.norm(dim=-1)
        first, second = now.codes.unsqueeze(2), before.codes.unsqueeze(1)
        turned = (first[..., 3:5] * second[..., 3:5]).sum(-1)
        looks = F.normalize(now.content.float(), dim=-1) @ F.normalize(
            before.content.float(), dim=-1
        ).transpose(1, 2)
        best = score.amax(-1).unsqueeze(1).expand_as(speed)
        listed = [speed.clamp(max=40) / 10, climb, turned, looks, alike / 10, best / 10]
        sizes = (first[..., :3] - second[..., :3]).abs()
        facts = torch.cat([speeds.clamp(-40, 40) / 10, sizes, torch.stack(listed, -1)], dim=-1)
        learned = at_least_float32(self.pair(facts)).squeeze(-1)
        plausible = alike - 0.5 * (speed / USUAL_SPEED) ** 2 + learned
        plausible = plausible.masked_fill(~seen.view(-1, 1, 1), UNSEEN)
        none = self.stranger.to(plausible).expand(*plausible.shape[:2], 1)
        return torch.cat([plausible, none], dim=-1).softmax(-1)
