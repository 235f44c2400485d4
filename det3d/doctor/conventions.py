"""Which box convention numbers are written in, told by what is known of objects.

Sizes are compared with the usual size of a class, headings with the way that objects move. Each
function returns its evidence as numbers, so that a finding can say why.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from det3d.evaluation.conventions import ELONGATED
from det3d.results.geometry import Array

TYPICAL = {  # length, width, height in metres: rounded means of nuScenes' training split
    "car": (4.6, 1.95, 1.7), "truck": (6.9, 2.5, 2.85), "bus": (11.1, 2.95, 3.5),
    "trailer": (12.2, 2.9, 3.9), "construction_vehicle": (6.4, 2.8, 3.2),
    "pedestrian": (0.73, 0.67, 1.77), "motorcycle": (2.1, 0.77, 1.5), "bicycle": (1.7, 0.6, 1.3),
    "traffic_cone": (0.41, 0.41, 1.07), "barrier": (0.5, 2.5, 1.0),
}  # fmt: skip
NAMES = ("length", "width", "height")
ENOUGH = 5  # objects from which evidence counts
CLEAR = 0.15  # by which another order must explain sizes better, in mean logarithms
OTHER_UNIT = 1.7  # factor between sizes and usual sizes from which it is another unit
MOVING = 2.0  # m/s from which the way that an object moves says where it points
TOLERANCE = np.pi / 6


@dataclass(frozen=True)
class Sizes:
    """How sizes fit their classes.

    order: the words for the three numbers that fit best; given: the ones they were taken for;
    errors (2,): mean absolute logarithms of the given order and the best; scale: the median factor
    to usual sizes; count: how many objects this rests on.
    """

    order: tuple[str, ...]
    given: tuple[str, ...]
    errors: tuple[float, float]
    scale: float
    count: int

    @property
    def swapped(self) -> bool:
        """Whether another order explains the sizes clearly better."""
        return self.count >= ENOUGH and self.errors[0] - self.errors[1] > CLEAR

    @property
    def other_unit(self) -> bool:
        """Whether sizes are in another unit than metres, halved or doubled."""
        return self.count >= ENOUGH and abs(np.log(self.scale)) > np.log(OTHER_UNIT)

    @property
    def evidence(self) -> str:
        """The numbers in words."""
        other = f", {self.errors[1]:.2f} as {', '.join(self.order)}"
        return (
            f"{self.count} objects: mean |log| to true or usual sizes is {self.errors[0]:.2f} "
            f"as {', '.join(self.given)}{other if self.order != self.given else ''}; "
            f"median scale {self.scale:.2f}"
        )


def judge_sizes(sizes: Array, names: Sequence[str], given: tuple[str, ...]) -> Sizes:
    """How sizes (N, 3), written in the order ``given``, fit the classes ``names``."""
    known = [row for row, name in enumerate(names) if name in TYPICAL and sizes[row].min() > 0]
    if not known:
        return Sizes(given, given, (0.0, 0.0), 1.0, 0)
    return compare_sizes(sizes[known], np.array([TYPICAL[names[row]] for row in known]), given)


def compare_sizes(sizes: Array, true: Array, given: tuple[str, ...]) -> Sizes:
    """How sizes (N, 3), written in the order ``given``, fit true ones: length, width, height."""
    logs, wanted = np.log(np.clip(sizes, 1e-3, None)), np.log(true)
    errors = {}
    for order in itertools.permutations(NAMES):
        gap = logs[:, [order.index(name) for name in NAMES]] - wanted
        errors[order] = float(np.abs(gap - np.median(gap)).mean())
    best = min(errors, key=lambda order: errors[order])
    if errors[given] - errors[best] <= CLEAR:
        best = given
    scale = float(np.exp(np.median(logs.mean(1) - wanted.mean(1))))
    return Sizes(best, given, (errors[given], errors[best]), scale, len(sizes))


GIVEN = "as it is"
READINGS = {
    GIVEN: lambda yaw: yaw,
    "yaw + pi": lambda yaw: yaw + np.pi,
    "yaw + pi/2": lambda yaw: yaw + np.pi / 2,
    "yaw - pi/2": lambda yaw: yaw - np.pi / 2,
    "-yaw": lambda yaw: -yaw,
    "-yaw + pi": lambda yaw: np.pi - yaw,
    "-yaw - pi/2": lambda yaw: -yaw - np.pi / 2,
    "-yaw + pi/2": lambda yaw: -yaw + np.pi / 2,
}
"""How the true heading may follow from the yaw that is written."""


@dataclass(frozen=True)
class Headings:
    """How yaws fit the directions that they should have.

    reading: the one of ``READINGS`` that most of ``count`` objects follow; all_shares: of objects
    within 30 degrees, by reading.
    """

    reading: str
    all_shares: Mapping[str, float]
    count: int

    @property
    def shares(self) -> tuple[float, float]:
        """Shares as it is, and in the best reading."""
        return self.all_shares[GIVEN], self.all_shares[self.reading]

    def follow(self, reading: str) -> bool:
        """Whether a reading explains the directions as well as the best, or nothing is known."""
        return self.count < ENOUGH or self.all_shares[reading] >= self.shares[1] - 0.05

    @property
    def turned(self) -> bool:
        """Whether another reading clearly explains the directions, and the given one does not."""
        return self.count >= ENOUGH and self.shares[1] > 0.7 and self.shares[0] < 0.5

    @property
    def evidence(self) -> str:
        """The numbers in words."""
        other = f", {self.shares[1]:.0%} as {self.reading}" if self.reading != GIVEN else ""
        return (
            f"of {self.count} objects, {self.shares[0]:.0%} point within 30 degrees of their "
            f"direction as written{other}"
        )


def judge_headings(yaws: Array, directions: Array) -> Headings:
    """How ``yaws`` (N,) fit the true or travelled ``directions`` (N,), all in radians."""
    if not len(yaws):
        return Headings(GIVEN, dict.fromkeys(READINGS, 1.0), 0)
    shares = {
        name: float((apart(read(yaws), directions) < TOLERANCE).mean())
        for name, read in READINGS.items()
    }
    best = max(shares, key=lambda name: shares[name])
    return Headings(best, shares, len(yaws))


def apart(first: Array, second: Array) -> Array:
    """Angles between directions, in [0, pi]."""
    return np.abs((first - second + np.pi) % (2 * np.pi) - np.pi)


def moving_vehicles(names: Sequence[str], velocities: Array) -> Array:
    """Which objects move along their heading for sure: (N,) bool."""
    fast = np.linalg.norm(np.nan_to_num(velocities), axis=1) > MOVING
    return fast & np.isin(np.array(names, dtype=object), ELONGATED)


def travel(velocities: Array) -> Array:
    """Directions (N,) in radians of velocities (N, 2)."""
    return np.arctan2(velocities[:, 1], velocities[:, 0])
