"""One toy scene before anything is drawn: ego drive, actors, town, light, place on the map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_crowd import Crowd
from det3d.data.toy_motion import Motion, cruising, stopping, straight, turning
from det3d.data.toy_rig import KEY_FRAME_PERIOD
from det3d.data.toy_town import Fixture, Light, Street, Town, make_fixtures, make_light
from det3d.data.toy_traffic import DETECTION_CLASSES, Actor, Placement

Array = NDArray[np.float64]

QUIET_TIME = 2.6  # seconds without any annotation in scenes that arrive at or leave the town
JOURNEY_TIME = 14.0  # seconds; shorter scenes stay in town, they could not arrive anywhere
DESCRIPTIONS = {
    "straight": "Drive straight through the town",
    "right": "Turn right at the intersection",
    "left": "Turn left at the intersection",
    "stop": "Stop at the intersection and go on",
    "arrive": "Empty road at first, then arrive at the town",
    "leave": "Leave the town for an empty road",
}


@dataclass(frozen=True)
class ScenePlan:
    """What a scene must be.

    kind: a key of ``DESCRIPTIONS``; required: classes near the route; frame_period: seconds from
    one key frame to the next; balanced: more of the rare classes.
    """

    name: str
    split: str
    index: int
    seed: int
    kind: str
    required: tuple[str, ...]
    num_frames: int
    frame_period: float = KEY_FRAME_PERIOD
    balanced: bool = False

    @property
    def duration(self) -> float:
        """Seconds from the first to one period after the last key frame."""
        return self.num_frames * self.frame_period

    def rng(self, purpose: int) -> np.random.Generator:
        """An independent random generator for one purpose within this scene."""
        name = [int(b) for b in self.name.encode()]
        return np.random.default_rng([self.seed, purpose, *name])


@dataclass(frozen=True)
class ToyScene:
    """Everything that moves and stands in one scene, in the town frame; functions of time.

    ``global_from_town``: x, y, yaw of the town frame in the global (map) frame.
    """

    plan: ScenePlan
    town: Town
    light: Light
    fixtures: tuple[Fixture, ...]
    ego: Motion
    actors: tuple[Actor, ...]
    global_from_town: tuple[float, float, float]

    @property
    def times(self) -> Array:
        """Seconds of the key frames' lidar sweeps."""
        return np.arange(self.plan.num_frames) * self.plan.frame_period

    def to_global(self, poses: Array) -> Array:
        """Poses (..., 3) = x, y, yaw from the town frame to the global frame."""
        x, y, yaw = self.global_from_town
        cos, sin = np.cos(yaw), np.sin(yaw)
        return np.stack([
            x + cos * poses[..., 0] - sin * poses[..., 1],
            y + sin * poses[..., 0] + cos * poses[..., 1],
            poses[..., 2] + yaw,
        ], axis=-1)  # fmt: skip


def plan_split(
    split: str,
    names: list[str],
    seed: int,
    num_frames: int,
    frame_period: float = KEY_FRAME_PERIOD,
    *,
    balanced: bool = False,
) -> list[ScenePlan]:
    """Plans for the scenes of one split: every class is required in at least one of them.

    With ten scenes in town or more, each requires three classes, by turns, so that rare
    classes are about as frequent as in the small splits.
    """
    travels = num_frames * frame_period >= JOURNEY_TIME
    kinds = [_journey(i) if travels else None for i in range(len(names))]
    busy = [i for i, kind in enumerate(kinds) if kind is None]
    order, classes = np.random.default_rng([seed, 77, *split.encode()]), DETECTION_CLASSES
    plans = []
    for i, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        if kind is None:
            kind = str(order.choice(["straight", "right", "left", "stop"]))
            turn, count = busy.index(i), len(classes)
            few = len(busy) < count
            turns = range(turn, count, len(busy)) if few else (turn, turn + 3, turn + 6)
            required = tuple(classes[t % count] for t in turns)
        else:
            required = ()
        plans.append(
            ScenePlan(name, split, i, seed, kind, required, num_frames, frame_period, balanced)
        )
    return plans


def _journey(index: int) -> str | None:
    """The kind of the few scenes that come from or go to the empty road, None for the others."""
    if index % 4 == 1:
        return "arrive"
    return "leave" if index % 8 == 6 else None


def build_scene(plan: ScenePlan) -> ToyScene:
    """Simulate one scene; the same plan gives the same scene."""
    rng = plan.rng(0)
    main = Street(int(rng.choice([1, 2], p=[0.45, 0.55])))
    cross = Street(int(rng.choice([1, 2], p=[0.7, 0.3])))
    ego = _ego_motion(plan, main, cross, rng)
    route = ego.poses(np.linspace(0, plan.duration, 30))[:, :2]
    low, high = route.min(0) - 85, route.max(0) + 85
    town = Town(main, cross, (float(low[0]), float(low[1]), float(high[0]), float(high[1])))
    light = make_light(plan.rng(1))
    quiet = {"arrive": (0.0, QUIET_TIME), "leave": (plan.duration - QUIET_TIME, plan.duration)}
    placement = Placement(ego, plan.duration, quiet.get(plan.kind))
    crowd = Crowd(town, ego, placement, plan.duration, plan.rng(3))
    crowd.require(plan.required)
    fixtures = placement.keep_clear_of(make_fixtures(town, plan.rng(2)))
    crowd.fill(waiting=plan.kind == "stop", balanced=plan.balanced)
    turn = float(rng.uniform(-np.pi, np.pi))
    centre = (low + high) / 2
    reach = np.linalg.norm(high - low) / 2 + rng.uniform(10, 60, 2)
    cos, sin = np.cos(turn), np.sin(turn)
    x = reach[0] - cos * centre[0] + sin * centre[1]
    y = reach[1] - sin * centre[0] - cos * centre[1]
    return ToyScene(
        plan, town, light, tuple(fixtures), ego, tuple(placement.actors), (float(x), float(y), turn)
    )


def _ego_motion(plan: ScenePlan, main: Street, cross: Street, rng: np.random.Generator) -> Motion:
    """The ego drive, eastwards along the main street; distances are chosen around the crossing."""
    span = (-1.0, plan.duration + 1.0)
    lane = -main.lane(int(rng.integers(main.lanes)))
    line = straight((-600, lane), 0.0, 1200)
    if plan.kind in ("arrive", "leave"):
        speed = rng.uniform(10.5, 12.5)
        start = -215.0 if plan.kind == "arrive" else 215 - speed * plan.duration
        return cruising(line, 600 + start, speed, span)
    if plan.kind == "stop":
        front = 3.9
        halt = 600 - (cross.kerb + 1.2 + 3.75) - front
        return stopping(line, halt, rng.uniform(6, 9), plan.duration * rng.uniform(0.3, 0.45),
                        plan.duration * rng.uniform(0.15, 0.3), span)  # fmt: skip
    if plan.kind == "straight":
        speed = rng.uniform(5, 9)
        return cruising(line, 600 - speed * plan.duration * rng.uniform(0.25, 0.75), speed, span)
    right = plan.kind == "right"
    path = turning((0, -main.lane(main.lanes - 1 if right else 0)), 0.0,
                   (-cross.lane(cross.lanes - 1) if right else cross.lane(0), 0),
                   -np.pi / 2 if right else np.pi / 2, 7.5 if right else 11.0)  # fmt: skip
    speed = rng.uniform(4.5, 6.5)
    return cruising(path, 300 - speed * plan.duration * rng.uniform(0.3, 0.6), speed, span)
