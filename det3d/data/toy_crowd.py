"""Fills a toy town with actors around the route of the ego car."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_motion import Motion, Path, cruising, resting, stopping, straight, turning
from det3d.data.toy_town import LANE, Town
from det3d.data.toy_traffic import Actor, Placement, make_shape

Array = NDArray[np.float64]
Spot = tuple[float, float, float]  # x, y, yaw
Trial = Callable[[str, Array], bool]  # tries to place a class near a pose of the ego

BULKIEST_FIRST = (
    "trailer", "bus", "truck", "construction_vehicle", "car", "barrier", "traffic_cone",
    "motorcycle", "bicycle", "pedestrian",
)  # fmt: skip
SMALL_REACH, LARGE_REACH = 26.0, 38.0  # metres from the ego, inside the benchmark's class ranges
HEADINGS = {"east": 0.0, "north": np.pi / 2, "west": np.pi, "south": -np.pi / 2}
FRACTIONS = np.linspace(0, 1, 201)  # of a path, where its nearest point to the ego is looked for
TRIES = 4
BALANCE = {
    "car": 1, "truck": 2, "construction_vehicle": 4, "bus": 3, "trailer": 3, "barrier": 3,
    "motorcycle": 3, "bicycle": 4, "pedestrian": 1, "traffic_cone": 2,
}  # fmt: skip
"""How many times as often a balanced crowd tries to place a class."""


class Crowd:
    """Offers actors of all kinds to a placement, which takes those that fit."""

    def __init__(self, town: Town, ego: Motion, placement: Placement, duration: float,
                 rng: np.random.Generator) -> None:  # fmt: skip
        self.town, self.ego, self.placement = town, ego, placement
        self.duration, self.rng = duration, rng
        self.span = (-1.0, duration + 1.0)
        route = np.ptp(np.interp([0, duration], ego.times, ego.distances))
        self.scale = (95 + route) / 230  # of the numbers below, which suit a route of 135 m
        self.speeds = {stream: rng.uniform(4, 9) for stream in HEADINGS}

    def require(self, names: tuple[str, ...]) -> None:
        """Place one of each class where the ego car passes in mid-scene.

        Before any fixture is placed there is always room; raises RuntimeError if there is none.
        """
        places = {
            "barrier": self._line, "traffic_cone": self._line, "bicycle": self._beside,
            "motorcycle": self._beside, "pedestrian": self._standing,
        }  # fmt: skip
        for name in sorted(names, key=BULKIEST_FIRST.index):
            place = places.get(name, self._parked)
            farthest = SMALL_REACH if place == self._line else LARGE_REACH
            reaches = np.linspace(12, farthest, 300).tolist()
            if not any(place(name, self._anchor(0.3, 0.7), reach) for reach in reaches):
                raise RuntimeError(f"found no room for a {name} beside the ego's route")

    def fill(self, *, waiting: bool, balanced: bool = False) -> None:
        """Place the usual crowd, or a ``balanced`` one with more of the rare classes.

        waiting: the ego halts at the crossing, so it cannot follow.
        """
        rng = self.rng
        for _ in range(rng.poisson(0.8 * self.scale)):
            self._work_zone(self._anchor(), full=bool(rng.random() < 0.5))
        for _ in range(rng.poisson(1.6 * self.scale)):
            self._convoy(ahead=not waiting and bool(rng.random() < 0.5))
        counts: tuple[tuple[Trial, str, float], ...] = (
            (self._parked, "car", 8), (self._moving, "car", 8),
            (self._moving, "truck", 2.0), (self._parked, "truck", 1.4), (self._moving, "bus", 1.0),
            (self._parked, "bus", 0.6), (self._parked, "trailer", 1.6),
            (self._parked, "construction_vehicle", 1.0), (self._moving, "motorcycle", 1.8),
            (self._beside, "motorcycle", 1.4), (self._moving, "bicycle", 1.8),
            (self._beside, "bicycle", 1.6), (self._walking, "pedestrian", 8),
            (self._crossing, "pedestrian", 4), (self._standing, "pedestrian", 3),
            (self._line, "barrier", 1.8), (self._line, "traffic_cone", 1.6),
        )  # fmt: skip
        for place, name, mean in counts:
            often = BALANCE[name] if balanced else 1
            for _ in range(int(rng.poisson(often * mean * self.scale))):
                any(place(name, self._anchor()) for _ in range(TRIES))

    def _anchor(self, early: float = 0.0, late: float = 1.0) -> Array:
        """Where the ego car is at a random time, as x, y, yaw."""
        return self.ego.poses(self.duration * self.rng.uniform(early, late))

    def _coin(self) -> int:
        return 1 if self.rng.random() < 0.5 else -1

    def _offer(self, name: str, motion: Motion, *, parked: bool = False, rider: bool = False,
               walking: bool = False, worker: bool = False) -> bool:  # fmt: skip
        category, shape = make_shape(name, self.rng, rider=rider, walking=walking, worker=worker)
        return self.placement.offer(Actor(name, category, shape, motion, parked, rider))

    def _spot(self, anchor: Array, lateral: float, reach: float, clear: float) -> Spot | None:
        """A place beside the street the anchor is on, heading with the traffic of that side.

        lateral: metres from the kerb outwards; clear: metres to keep from the crossing's edge,
        None if the place drawn is nearer.
        """
        on_main = abs(anchor[1]) < self.town.main.edge
        street, other = self.town.main, self.town.cross
        if not on_main:
            street, other = other, street
        along = float(anchor[0] if on_main else anchor[1]) + self.rng.uniform(-reach, reach)
        side = self._coin()
        across = side * (street.kerb + lateral)
        if abs(along) < other.kerb + clear:
            return None
        if on_main:
            return along, across, 0.0 if side < 0 else np.pi
        return across, along, np.pi / 2 if side > 0 else -np.pi / 2

    def _parked(self, name: str, anchor: Array, reach: float = 48.0) -> bool:
        spot = self._spot(anchor, -1.2 + self.rng.uniform(-0.1, 0.1), reach, 10.0)
        if spot is None:
            return False
        yaw = spot[2] + self.rng.normal(0, 0.02)
        if name == "construction_vehicle" and self._coin() > 0:
            yaw += np.pi
        return self._offer(name, resting(spot[0], spot[1], yaw), parked=True)

    def _beside(self, name: str, anchor: Array, reach: float = 42.0) -> bool:
        """Two-wheelers without a rider on the sidewalk's edge or in the parking strip."""
        spot = self._spot(anchor, self.rng.choice([0.9, 1.2, -0.9]), reach, 6.0)
        if spot is None:
            return False
        yaw = spot[2] + self.rng.choice([0.0, np.pi / 2, np.pi]) + self.rng.normal(0, 0.2)
        return self._offer(name, resting(spot[0], spot[1], yaw), parked=True)

    def _standing(self, name: str, anchor: Array, reach: float = 38.0) -> bool:
        spot = self._spot(anchor, self.rng.uniform(0.5, 3.2), reach, 2.0)
        if spot is None:
            return False
        return self._offer(name, resting(spot[0], spot[1], self.rng.uniform(-np.pi, np.pi)))

    def _walking(self, name: str, anchor: Array) -> bool:
        """Along a sidewalk, either way."""
        spot = self._spot(anchor, self.rng.uniform(1.2, 3.3), 42.0, 2.0)
        if spot is None:
            return False
        return self._walk(name, spot[0], spot[1], spot[2] + (np.pi if self._coin() > 0 else 0))

    def _crossing(self, name: str, anchor: Array) -> bool:
        """Over one of the four crossings, or now and then over the main street anywhere."""
        rng, main, cross = self.rng, self.town.main, self.town.cross
        beside = self._coin() * (2.5 + rng.uniform(-1, 1) + np.array([cross.kerb, main.kerb]))
        along = rng.uniform(-1, 1) * np.array([cross.kerb, main.kerb])
        kind = rng.choice(3, p=[0.375, 0.375, 0.25])
        yaw = 0.0 if kind == 0 else np.pi / 2
        x, y = ((along[0], beside[1]), (beside[0], along[1]), (anchor[0], along[1]))[kind]
        if kind == 2:
            x += rng.uniform(8, 35)
        return self._walk(name, x, y, yaw + (np.pi if self._coin() > 0 else 0))

    def _walk(self, name: str, x: float, y: float, yaw: float) -> bool:
        """A pedestrian who is at x, y at a random time and walks straight on."""
        speed = self.rng.uniform(0.7, 1.8)
        when = self.rng.uniform(0, self.duration)
        path = straight((x, y), yaw + self.rng.normal(0, 0.02), 1.0)
        return self._offer(name, cruising(path, -speed * when, speed, self.span), walking=True)

    def _way(self, name: str) -> tuple[str, Path, bool]:
        """A random stream of traffic, a path in it, and whether that turns at the crossing."""
        rng, main, cross = self.rng, self.town.main, self.town.cross
        stream = str(rng.choice(list(HEADINGS), p=[0.3, 0.18, 0.34, 0.18]))
        heading = HEADINGS[stream]
        street, other = (main, cross) if stream in ("east", "west") else (cross, main)
        if rng.random() > 0.25 or name in ("bus", "bicycle"):
            lane = street.lane(int(rng.integers(street.lanes)))
            if name == "bicycle":
                lane = street.lanes * LANE - 0.5
            back = 300 * np.array([np.cos(heading), np.sin(heading)])
            return stream, straight(_right_of(heading, lane) - back, heading, 600), False
        right = self._coin() > 0
        out = heading - np.pi / 2 if right else heading + np.pi / 2
        entry = _right_of(heading, street.lane(street.lanes - 1 if right else 0))
        finish = _right_of(out, other.lane(other.lanes - 1 if right else 0))
        return stream, turning(entry, heading, finish, out, 7.0 if right else 11.0), True

    def _moving(self, name: str, anchor: Array) -> bool:
        """A vehicle of a traffic stream; some brake for the crossing and go on."""
        rng = self.rng
        stream, path, turns = self._way(name)
        speed = rng.uniform(4, 5.5) if turns else self.speeds[stream] * rng.uniform(0.97, 1.03)
        if name == "bicycle":
            speed = rng.uniform(2.5, 5.5)
        distances = path.distances[-1] * FRACTIONS
        nearest = np.argmin(np.linalg.norm(path.at(distances)[:, :2] - anchor[:2], axis=1))
        place = distances[nearest] + rng.uniform(-48, 48)
        motion = cruising(path, place - speed * rng.uniform(0, self.duration), speed, self.span)
        if not turns and rng.random() < 0.35:
            across = self.town.cross if stream in ("east", "west") else self.town.main
            halt = 300 - across.kerb - 8 - 8.0 * rng.integers(0, 4)
            motion = stopping(path, halt, speed, rng.uniform(-0.2, 0.7) * self.duration,
                              rng.uniform(0.3, 1.0) * self.duration, self.span)  # fmt: skip
        return self._offer(name, motion, rider=name in ("bicycle", "motorcycle"))

    def _convoy(self, *, ahead: bool) -> bool:
        """A vehicle that drives as the ego car does, some metres ahead of it or behind."""
        gap = self.rng.uniform(9, 32) * (1 if ahead else -1) + 1.35
        name = str(self.rng.choice(["car", "truck", "motorcycle"], p=[0.8, 0.1, 0.1]))
        motion = Motion(self.ego.path, self.ego.times, self.ego.distances + gap)
        return self._offer(name, motion, rider=name == "motorcycle")

    def _line(self, name: str, anchor: Array, reach: float = SMALL_REACH) -> bool:
        """A short row of barriers or cones along the street."""
        spot = self._spot(anchor, self.rng.choice([-2.3, -0.7, 0.6]), reach, 4.0)
        return spot is not None and self._row(name, spot, int(self.rng.integers(2, 6)))

    def _row(self, name: str, spot: Spot, count: int) -> bool:
        """Barriers or cones one after the other; tells whether any found room."""
        step = 2.9 if name == "barrier" else self.rng.uniform(1.6, 3.2)
        placed = False
        for k in range(count):
            yaw = spot[2] + np.pi / 2 + self.rng.normal(0, 0.05)
            if name == "traffic_cone":
                yaw = self.rng.uniform(-np.pi, np.pi)
            x, y = _ahead_of(spot, k * step, self.rng.normal(0, 0.08))
            placed |= self._offer(name, resting(x, y, yaw))
        return placed

    def _work_zone(self, anchor: Array, *, full: bool) -> None:
        """Part of the parking strip closed by cones and barriers; full: with a machine."""
        spot = self._spot(anchor, -0.9, 30.0, 12.0)
        if spot is None:
            return
        rng = self.rng
        if full:
            yaw = spot[2] + rng.normal(0, 0.1) + (np.pi if self._coin() > 0 else 0)
            self._offer("construction_vehicle", resting(spot[0], spot[1], yaw), parked=True)
        start = _ahead_of(spot, -7.0, 1.9)
        self._row("traffic_cone", (*start, spot[2]), int(rng.integers(4, 8)))
        for along, turn in ((-8.5, np.pi), (8.5, 0.0)):
            x, y = _ahead_of(spot, along, 0.0)
            self._offer("barrier", resting(x, y, spot[2] + turn))
        for _ in range(2):
            x, y = _ahead_of(spot, rng.uniform(-7, 7), -rng.uniform(1.2, 2.5))
            yaw = rng.uniform(-np.pi, np.pi)
            self._offer("pedestrian", resting(x, y, yaw), worker=True)


def _right_of(heading: float, distance: float) -> Array:
    """The point (2,) that far to the right of the middle of a street with this heading."""
    return distance * np.array([np.sin(heading), -np.cos(heading)])


def _ahead_of(spot: Spot, along: float, left: float) -> tuple[float, float]:
    """The point some metres ahead of a spot and to its left."""
    cos, sin = np.cos(spot[2]), np.sin(spot[2])
    return float(spot[0] + along * cos - left * sin), float(spot[1] + along * sin + left * cos)
