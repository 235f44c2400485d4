"""Motions of the toy world: paths over the ground and distances along them over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """A smooth line over the ground: points (N, 2), distances (N,) along it, headings (N,)."""

    points: Array
    distances: Array
    headings: Array

    def at(self, distance: ArrayLike) -> Array:
        """Poses (..., 3) = x, y, yaw at distances (...); straight on beyond both ends."""
        distance = np.asarray(distance, float)
        columns = (self.points[:, 0], self.points[:, 1], self.headings)
        pose = np.stack([np.interp(distance, self.distances, c) for c in columns], -1)
        beyond = distance - np.clip(distance, self.distances[0], self.distances[-1])
        pose[..., 0] += beyond * np.cos(pose[..., 2])
        pose[..., 1] += beyond * np.sin(pose[..., 2])
        return pose


def make_path(points: ArrayLike) -> Path:
    """The path through points (N, 2), N at least 2."""
    points = np.asarray(points, float)
    steps = np.diff(points, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    segment = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    inner = (segment[1:] + segment[:-1]) / 2
    headings = np.concatenate([segment[:1], inner, segment[-1:]])
    return Path(points, np.concatenate([[0.0], np.cumsum(lengths)]), headings)


def straight(start: Sequence[float], heading: float, length: float) -> Path:
    """A straight path of ``length`` metres."""
    first = np.asarray(start, float)
    return make_path([first, first + length * np.array([np.cos(heading), np.sin(heading)])])


def turning(entry: Sequence[float], heading_in: float, exit_: Sequence[float], heading_out: float,
            radius: float, reach: float = 300.0) -> Path:  # fmt: skip
    """Two straight lines joined by an arc.

    entry and exit_ are any points on the incoming and outgoing line; ``reach`` metres of both are
    kept. Raises ValueError if the lines are parallel.
    """
    d_in = np.array([np.cos(heading_in), np.sin(heading_in)])
    d_out = np.array([np.cos(heading_out), np.sin(heading_out)])
    system = np.stack([d_in, -d_out], axis=1)
    if abs(np.linalg.det(system)) < 1e-6:
        raise ValueError(f"headings {heading_in} and {heading_out} are parallel: nothing to turn")
    along = np.linalg.solve(system, np.asarray(exit_, float) - np.asarray(entry, float))[0]
    corner = np.asarray(entry, float) + along * d_in
    turn = (heading_out - heading_in + np.pi) % (2 * np.pi) - np.pi
    cut = radius * np.tan(abs(turn) / 2)
    left = np.array([-d_in[1], d_in[0]]) * np.sign(turn)
    centre = corner - cut * d_in + radius * left
    angles = heading_in - np.sign(turn) * np.pi / 2 + np.linspace(0, turn, 33)
    arc = centre + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
    return make_path([corner - reach * d_in, *arc, corner + reach * d_out])


@dataclass(frozen=True)
class Motion:
    """A path and the distance travelled over time; held constant outside of ``times``."""

    path: Path
    times: Array
    distances: Array

    def poses(self, times: ArrayLike) -> Array:
        """Poses (..., 3) = x, y, yaw at times (...)."""
        return self.path.at(np.interp(np.asarray(times, float), self.times, self.distances))

    def speed(self, time: float, step: float = 0.05) -> float:
        """Metres per second around ``time``."""
        later, earlier = np.interp([time + step, time - step], self.times, self.distances)
        return float((later - earlier) / (2 * step))


def resting(x: float, y: float, yaw: float) -> Motion:
    """No motion at all."""
    return Motion(straight((x, y), yaw, 1.0), np.zeros(1), np.zeros(1))


def cruising(path: Path, start: float, speed: float, horizon: tuple[float, float]) -> Motion:
    """Constant speed; ``start`` is the distance along the path at time 0."""
    times = np.array(horizon, float)
    return Motion(path, times, start + speed * times)


def stopping(path: Path, stop: float, speed: float, arrival: float, wait: float,
             horizon: tuple[float, float], braking: float = 2.5) -> Motion:  # fmt: skip
    """Cruise, brake to rest at distance ``stop`` at time ``arrival``, wait, set off again."""
    times = np.arange(horizon[0], horizon[1] + 0.05, 0.05)
    before = np.clip(arrival - times, 0, None)
    after = np.clip(times - arrival - wait, 0, None)
    ramp = speed / braking

    def covered(duration: Array) -> Array:
        return np.where(
            duration < ramp, 0.5 * braking * duration**2, speed * (duration - 0.5 * ramp)
        )

    return Motion(path, times, stop - covered(before) + covered(after))


def footprint_corners(poses: Array, half: Array) -> Array:
    """Corners (..., 4, 2) of rectangles with half length and width (..., 2) at poses (..., 3)."""
    cos, sin = np.cos(poses[..., 2]), np.sin(poses[..., 2])
    forward = np.stack([cos, sin], -1) * half[..., :1]
    left = np.stack([-sin, cos], -1) * half[..., 1:]
    centre = poses[..., :2]
    corners = [centre + forward - left, centre + forward + left]
    corners += [centre - forward + left, centre - forward - left]
    return np.stack(corners, -2)


def footprints_overlap(poses: Array, half: Array, others: Array, other_half: Array) -> Array:
    """Tell which pairs (...) of rectangles overlap, by separating axes. Arguments broadcast."""
    poses, others = np.broadcast_arrays(poses, others)
    offset = others[..., :2] - poses[..., :2]
    turn = others[..., 2] - poses[..., 2]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    overlap = np.ones(offset.shape[:-1], bool)
    for frame, mine, theirs in ((poses, half, other_half), (others, other_half, half)):
        c, s = np.cos(frame[..., 2]), np.sin(frame[..., 2])
        along = np.abs(offset[..., 0] * c + offset[..., 1] * s)
        across = np.abs(-offset[..., 0] * s + offset[..., 1] * c)
        reach_along = mine[..., 0] + cos * theirs[..., 0] + sin * theirs[..., 1]
        reach_across = mine[..., 1] + sin * theirs[..., 0] + cos * theirs[..., 1]
        overlap &= (along < reach_along) & (across < reach_across)
    return overlap
