"""One toy scene before anything is drawn: ego drive, actors, town, light, place on the map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_motion import Motion, Path, cruising, resting, stopping, straight, turning
from det3d.data.toy_rig import KEY_FRAME_PERIOD
from det3d.data.toy_town import LANE, Fixture, Light, Street, Town, make_fixtures, make_light
from det3d.data.toy_traffic import DETECTION_CLASSES, Actor, Placement, make_shape

Array = NDArray[np.float64]

QUIET_TIME = 2.6  # seconds without any annotation in scenes that arrive at or leave the town
RARE = tuple(name for name in DETECTION_CLASSES if name not in ("car", "pedestrian"))
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
    """What a scene must be. kind: a key of ``DESCRIPTIONS``; required: classes near the route."""

    name: str
    split: str
    index: int
    seed: int
    kind: str
    required: tuple[str, ...]
    num_frames: int

    @property
    def duration(self) -> float:
        """Seconds from the first to one period after the last key frame."""
        return self.num_frames * KEY_FRAME_PERIOD

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
        return np.arange(self.plan.num_frames) * KEY_FRAME_PERIOD

    def to_global(self, poses: Array) -> Array:
        """Poses (..., 3) = x, y, yaw from the town frame to the global frame."""
        x, y, yaw = self.global_from_town
        cos, sin = np.cos(yaw), np.sin(yaw)
        return np.stack([
            x + cos * poses[..., 0] - sin * poses[..., 1],
            y + sin * poses[..., 0] + cos * poses[..., 1],
            poses[..., 2] + yaw,
        ], axis=-1)  # fmt: skip


def plan_split(split: str, names: list[str], seed: int, num_frames: int) -> list[ScenePlan]:
    """Plans for the scenes of one split: every rare class is required in at least one of them."""
    busy = [i for i in range(len(names)) if i % 4 != 1 and i % 8 != 6]
    order = np.random.default_rng([seed, 77, *split.encode()])
    plans = []
    for i, name in enumerate(names):
        if i % 4 == 1:
            kind = "arrive"
        elif i % 8 == 6:
            kind = "leave"
        else:
            kind = str(order.choice(["straight", "right", "left", "stop"]))
        required = tuple(c for j, c in enumerate(RARE) if busy[j % len(busy)] == i)
        plans.append(ScenePlan(name, split, i, seed, kind, required, num_frames))
    return plans


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
    fixtures = make_fixtures(town, plan.rng(2))
    quiet = {"arrive": (0.0, QUIET_TIME), "leave": (plan.duration - QUIET_TIME, plan.duration)}
    placement = Placement(ego, plan.duration, fixtures, quiet.get(plan.kind))
    _Populator(plan, town, ego, placement).fill()
    turn = float(rng.uniform(-np.pi, np.pi))
    centre = (low + high) / 2
    reach = np.linalg.norm(high - low) / 2 + rng.uniform(10, 60, 2)
    cos, sin = np.cos(turn), np.sin(turn)
    x = reach[0] - cos * centre[0] + sin * centre[1]
    y = reach[1] - sin * centre[0] - cos * centre[1]
    return ToyScene(plan, town, light, tuple(fixtures), ego, tuple(placement.actors), (float(x), float(y), turn))


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


class _Populator:
    """Offers actors of all kinds around the ego's route until the scene is as full as planned."""

    def __init__(self, plan: ScenePlan, town: Town, ego: Motion, placement: Placement) -> None:
        self.rng = plan.rng(3)
        self.plan, self.town, self.ego, self.placement = plan, town, ego, placement
        self.span = (-1.0, plan.duration + 1.0)
        route = np.ptp(np.interp([0, plan.duration], ego.times, ego.distances))
        self.scale = (95 + route) / 230
        self.speeds = {key: self.rng.uniform(4, 9) for key in ("east", "west", "north", "south")}

    def fill(self) -> None:
        """Place required classes first, then the usual crowd."""
        for name in self.plan.required:
            self._require(name)
        rng = self.rng
        for _ in range(rng.poisson(1.1 * self.scale)):
            self._work_zone(self._anchor(), full=bool(rng.random() < 0.5))
        counts = (
            (self._convoy, "car", rng.integers(1, 4)),
            (self._parked, "car", 26), (self._moving, "car", 16), (self._moving, "truck", 2.4),
            (self._parked, "truck", 1.8), (self._moving, "bus", 0.6), (self._parked, "bus", 0.3),
            (self._parked, "trailer", 0.6), (self._moving, "motorcycle", 2.2),
            (self._beside, "motorcycle", 1.6), (self._moving, "bicycle", 1.8),
            (self._beside, "bicycle", 2.0), (self._walking, "pedestrian", 26),
            (self._crossing, "pedestrian", 7), (self._standing, "pedestrian", 6),
            (self._line, "barrier", 1.3), (self._line, "traffic_cone", 1.6),
        )  # fmt: skip
        for place, name, mean in counts:
            for _ in range(int(rng.poisson(mean * self.scale))):
                self._attempt(place, name, 4)

    def _attempt(self, place: object, name: str, tries: int) -> bool:
        return any(place(name, self._anchor()) for _ in range(tries))  # type: ignore[operator]

    def _require(self, name: str) -> None:
        """Place one of a class where the ego car passes in mid-scene."""
        place = {"barrier": self._line, "traffic_cone": self._line, "bicycle": self._beside,
                 "motorcycle": self._beside}.get(name, self._parked)  # fmt: skip
        for reach in np.linspace(14, 48, 400):
            if place(name, self._anchor(0.3, 0.7), float(reach)):
                return
        raise RuntimeError(f"{self.plan.name}: found no room for a {name} beside the route")

    def _anchor(self, early: float = 0.0, late: float = 1.0) -> Array:
        """Where the ego car is at a random time, as x, y, yaw."""
        return self.ego.poses(self.plan.duration * self.rng.uniform(early, late))

    def _actor(self, name: str, motion: Motion, *, parked: bool = False, rider: bool = False,
               walking: bool = False, worker: bool = False) -> bool:  # fmt: skip
        category, shape = make_shape(name, self.rng, rider=rider, walking=walking, worker=worker)
        return self.placement.offer(Actor(name, category, shape, motion, parked, rider))

    def _spot(self, anchor: Array, lateral: float, reach: float, side: int,
              clear: float) -> tuple[float, float, float] | None:  # fmt: skip
        """A place beside the street the anchor is on, heading with the traffic of that side.

        lateral: metres from the kerb outwards; clear: metres to keep from the crossing's edge.
        """
        on_main = abs(anchor[1]) < self.town.main.edge
        street, other = self.town.main, self.town.cross
        if not on_main:
            street, other = other, street
        along = float(anchor[0] if on_main else anchor[1]) + self.rng.uniform(-reach, reach)
        if abs(along) < other.kerb + clear:
            return None
        across = side * (street.kerb + lateral)
        if on_main:
            return along, across, 0.0 if side < 0 else np.pi
        return across, along, np.pi / 2 if side > 0 else -np.pi / 2

    def _side(self) -> int:
        return 1 if self.rng.random() < 0.5 else -1

    def _parked(self, name: str, anchor: Array, reach: float = 48.0) -> bool:
        spot = self._spot(anchor, -1.2 + self.rng.uniform(-0.1, 0.1), reach, self._side(), 10.0)
        if spot is None:
            return False
        yaw = spot[2] + self.rng.normal(0, 0.02)
        if name == "construction_vehicle" and self.rng.random() < 0.5:
            yaw += np.pi
        return self._actor(name, resting(spot[0], spot[1], yaw), parked=True)

    def _beside(self, name: str, anchor: Array, reach: float = 42.0) -> bool:
        """Two-wheelers without a rider on the sidewalk's edge or in the parking strip."""
        spot = self._spot(anchor, self.rng.choice([0.9, 1.2, -0.9]), reach, self._side(), 6.0)
        if spot is None:
            return False
        yaw = spot[2] + self.rng.choice([0.0, np.pi / 2, np.pi]) + self.rng.normal(0, 0.2)
        return self._actor(name, resting(spot[0], spot[1], yaw), parked=True)

    def _standing(self, name: str, anchor: Array, reach: float = 38.0) -> bool:
        spot = self._spot(anchor, self.rng.uniform(0.5, 3.2), reach, self._side(), 2.0)
        if spot is None:
            return False
        return self._actor(name, resting(spot[0], spot[1], self.rng.uniform(-np.pi, np.pi)))

    def _walking(self, name: str, anchor: Array, reach: float = 42.0) -> bool:
        spot = self._spot(anchor, self.rng.uniform(1.2, 3.3), reach, self._side(), 2.0)
        if spot is None:
            return False
        yaw = spot[2] + (np.pi if self.rng.random() < 0.5 else 0)
        return self._walk(name, spot[0], spot[1], yaw)

    def _crossing(self, name: str, anchor: Array) -> bool:
        """Over one of the four crossings, or now and then anywhere."""
        rng, town = self.rng, self.town
        side = self._side()
        if rng.random() < 0.5:
            x, y = side * (town.cross.kerb + 2.5 + rng.uniform(-1, 1)), rng.uniform(-1, 1) * town.main.kerb
            yaw = np.pi / 2
        else:
            x, y = rng.uniform(-1, 1) * town.cross.kerb, side * (town.main.kerb + 2.5 + rng.uniform(-1, 1))
            yaw = 0.0
        if rng.random() < 0.25:
            x, y, yaw = anchor[0] + rng.uniform(8, 35), rng.uniform(-1, 1) * town.main.kerb, np.pi / 2
        return self._walk(name, x, y, yaw + (np.pi if rng.random() < 0.5 else 0))

    def _walk(self, name: str, x: float, y: float, yaw: float) -> bool:
        """A pedestrian who is at x, y at a random time and walks straight on."""
        speed = self.rng.uniform(0.7, 1.8)
        yaw += self.rng.normal(0, 0.02)
        when = self.rng.uniform(0, self.plan.duration)
        path = straight((x, y), yaw, 1.0)
        return self._actor(name, cruising(path, -speed * when, speed, self.span), walking=True)

    def _paths(self, name: str) -> tuple[str, Path]:
        """A random way through the town, and the name of its traffic stream."""
        rng, main, cross = self.rng, self.town.main, self.town.cross
        stream = str(rng.choice(["east", "west", "north", "south"], p=[0.3, 0.34, 0.18, 0.18]))
        heading = {"east": 0.0, "north": np.pi / 2, "west": np.pi, "south": -np.pi / 2}[stream]
        street, other = (main, cross) if stream in ("east", "west") else (cross, main)
        lane = street.lane(int(rng.integers(street.lanes)))
        if name == "bicycle":
            lane = street.lanes * LANE - 0.5
        start = np.array([np.sin(heading), -np.cos(heading)]) * lane
        if rng.random() > 0.25 or name in ("bus", "bicycle"):
            return stream, straight(start - 300 * np.array([np.cos(heading), np.sin(heading)]), heading, 600)
        right = rng.random() < 0.5
        out = heading - np.pi / 2 if right else heading + np.pi / 2
        offset = other.lane(other.lanes - 1 if right else 0)
        lane = street.lane(street.lanes - 1 if right else 0)
        start = np.array([np.sin(heading), -np.cos(heading)]) * lane
        finish = np.array([np.sin(out), -np.cos(out)]) * offset
        return stream + "-turn", turning(start, heading, finish, out, 7.0 if right else 11.0)

    def _moving(self, name: str, anchor: Array) -> bool:
        """A vehicle of a traffic stream; some brake for the crossing and go on."""
        rng = self.rng
        stream, path = self._paths(name)
        turns = stream.endswith("-turn")
        speed = rng.uniform(4, 5.5) if turns else self.speeds[stream] * rng.uniform(0.97, 1.03)
        if name == "bicycle":
            speed = rng.uniform(2.5, 5.5)
        nearest = np.argmin(np.linalg.norm(path.at(path.distances[-1] * FRACTIONS)[:, :2] - anchor[:2], axis=1))
        place = path.distances[-1] * FRACTIONS[nearest] + rng.uniform(-48, 48)
        when = rng.uniform(0, self.plan.duration)
        rider = name in ("bicycle", "motorcycle")
        if not turns and rng.random() < 0.35:
            across = self.town.cross if stream in ("east", "west") else self.town.main
            halt = 300 - across.kerb - 8 - rng.integers(0, 4) * 8.0
            motion = stopping(path, halt, speed, rng.uniform(-0.2, 0.7) * self.plan.duration,
                              rng.uniform(0.3, 1.0) * self.plan.duration, self.span)  # fmt: skip
            return self._actor(name, motion, rider=rider)
        return self._actor(name, cruising(path, place - speed * when, speed, self.span), rider=rider)

    def _convoy(self, name: str, anchor: Array) -> bool:
        """A vehicle that drives as the ego car does, some metres ahead of it or behind."""
        gap = self.rng.uniform(9, 32) * (-1 if self.plan.kind == "stop" else self._side()) + 1.35
        name = str(self.rng.choice([name, "truck", "motorcycle"], p=[0.8, 0.1, 0.1]))
        motion = Motion(self.ego.path, self.ego.times, self.ego.distances + gap)
        return self._actor(name, motion, rider=True)

    def _line(self, name: str, anchor: Array, reach: float = 26.0) -> bool:
        """A short row of barriers or cones along the street."""
        lateral = self.rng.choice([-2.3, -0.7, 0.6])
        spot = self._spot(anchor, lateral, reach, self._side(), 4.0)
        return spot is not None and self._row(name, spot, int(self.rng.integers(2, 6))) > 0

    def _row(self, name: str, spot: tuple[float, float, float], count: int) -> int:
        x, y, yaw = spot
        step = 2.9 if name == "barrier" else self.rng.uniform(1.6, 3.2)
        placed = 0
        for k in range(count):
            facing = yaw + self.rng.normal(0, 0.05) + np.pi / 2
            if name == "traffic_cone":
                facing = self.rng.uniform(-np.pi, np.pi)
            where = (x + k * step * np.cos(yaw), y + k * step * np.sin(yaw) + self.rng.normal(0, 0.08))
            placed += self._actor(name, resting(*where, facing))
        return placed

    def _work_zone(self, anchor: Array, *, full: bool) -> None:
        """Part of the parking strip closed by cones and barriers, with a machine and workers."""
        spot = self._spot(anchor, -0.9, 30.0, self._side(), 12.0)
        if spot is None:
            return
        x, y, yaw = spot
        along, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        if full:
            turn = np.pi if self.rng.random() < 0.5 else 0.0
            self._actor("construction_vehicle", resting(x, y, yaw + turn + self.rng.normal(0, 0.1)), parked=True)
        start = np.array([x, y]) - 7 * along + 1.9 * left
        self._row("traffic_cone", (*start, yaw), int(self.rng.integers(4, 8)))
        for end in (-8.5, 8.5):
            where = np.array([x, y]) + end * along
            self._actor("barrier", resting(*where, yaw + (np.pi if end < 0 else 0)))
        for _ in range(2):
            where = np.array([x, y]) + self.rng.uniform(-7, 7) * along - self.rng.uniform(1.2, 2.5) * left
            self._actor("pedestrian", resting(*where, self.rng.uniform(-np.pi, np.pi)), worker=True)


FRACTIONS = np.linspace(0, 1, 201)
