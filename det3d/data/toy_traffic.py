"""Actors of a toy scene, annotated things that stand or move, and the rules that place them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from det3d.data import toy_figures as figures
from det3d.data import toy_vehicles as vehicles
from det3d.data.toy_motion import Motion, footprints_overlap
from det3d.data.toy_shapes import Shape
from det3d.data.toy_town import Fixture

Array = NDArray[np.float64]

DETECTION_CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
CATEGORY_OF = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "construction_vehicle": "vehicle.construction",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "barrier": "movable_object.barrier",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
}
ANNOTATION_RANGE = 75.0  # metres from the ego's rear axle, over the ground
EGO_CENTRE = 1.35  # metres from the rear axle to the middle of the ego car
EGO_HALF = np.array([2.45, 1.05])
MOST_ITEMS = 640  # actors and fixtures of a scene
MOVING_SPEED = 0.2  # m/s; slower counts as standing


@dataclass(frozen=True)
class Actor:
    """One annotated thing.

    name: detection class; category: nuScenes category; rider: for two-wheelers; parked: nobody in
    it; height of its box centre above the ground is ``centre_height``.
    """

    name: str
    category: str
    shape: Shape
    motion: Motion
    parked: bool = False
    rider: bool = False

    @property
    def size(self) -> Array:
        """Length, width, height (3,) of the annotated box."""
        return self.shape.box_size

    @property
    def centre_height(self) -> float:
        """z of the middle of the box."""
        lower, upper = self.shape.bounds
        return float(lower[2] + upper[2]) / 2

    def attribute(self, time: float) -> str:
        """nuScenes attribute name, or "" for things that have none."""
        moving = self.motion.speed(time) > MOVING_SPEED
        if self.name in ("barrier", "traffic_cone"):
            return ""
        if self.name in ("bicycle", "motorcycle"):
            return "cycle.with_rider" if self.rider else "cycle.without_rider"
        if self.name == "pedestrian":
            return "pedestrian.moving" if moving else "pedestrian.standing"
        if self.parked:
            return "vehicle.parked"
        return "vehicle.moving" if moving else "vehicle.stopped"


def make_shape(name: str, rng: np.random.Generator, *, rider: bool = False, walking: bool = False,
               worker: bool = False) -> tuple[str, Shape]:  # fmt: skip
    """nuScenes category and a random shape of a detection class."""
    if name == "pedestrian":
        if worker:
            return "human.pedestrian.construction_worker", figures.pedestrian(
                rng, worker=True, walking=walking
            )
        child = bool(rng.random() < 0.08)
        category = "human.pedestrian.child" if child else CATEGORY_OF[name]
        return category, figures.pedestrian(rng, child=child, walking=walking)
    if name in ("bicycle", "motorcycle"):
        make = figures.bicycle if name == "bicycle" else figures.motorcycle
        return CATEGORY_OF[name], make(rng, rider=rider)
    makers: dict[str, Callable[[np.random.Generator], Shape]] = {
        "car": vehicles.car,
        "truck": vehicles.truck,
        "bus": vehicles.bus,
        "trailer": vehicles.trailer,
        "construction_vehicle": vehicles.construction_vehicle,
        "barrier": figures.barrier,
        "traffic_cone": figures.traffic_cone,
    }
    return CATEGORY_OF[name], makers[name](rng)


class Placement:
    """Accepts actors one by one and refuses those that would touch anything, ever.

    ``quiet`` is a time span in which nothing may be within ``ANNOTATION_RANGE`` of the ego car.
    """

    def __init__(self, ego: Motion, duration: float, quiet: tuple[float, float] | None) -> None:
        self.actors: list[Actor] = []
        self.times = np.arange(-0.2, duration + 0.2, 0.2)
        self.ego_poses = ego.poses(self.times)
        self._quiet = np.zeros(len(self.times), bool)
        if quiet is not None:
            self._quiet = (self.times >= quiet[0] - 0.25) & (self.times <= quiet[1] + 0.25)
        body = self.ego_poses.copy()
        body[:, 0] += EGO_CENTRE * np.cos(body[:, 2])
        body[:, 1] += EGO_CENTRE * np.sin(body[:, 2])
        self._count = 0
        self._poses = np.zeros((MOST_ITEMS, len(self.times), 3))
        self._half = np.zeros((MOST_ITEMS, 2))
        self._span = np.zeros((MOST_ITEMS, 2))
        self._occupy(body, EGO_HALF + np.array([0.8, 0.25]), 0.0, 2.0)

    def keep_clear_of(self, fixtures: list[Fixture]) -> list[Fixture]:
        """Stay clear of fixtures from now on; returns those that no actor is in the way of."""
        kept = []
        for fixture in fixtures:
            lower, upper = fixture.shape.bounds
            still = np.broadcast_to([*(lower + upper)[:2] / 2, 0.0], self.ego_poses.shape)
            half = (upper - lower)[:2] / 2
            if self._untouched(still, half + 0.1, float(upper[2]), float(lower[2])):
                kept.append((fixture, still, half, float(lower[2])))
        for _, still, half, bottom in kept:
            self._occupy(still, half, bottom, np.inf)
        return [fixture for fixture, *_ in kept]

    def _occupy(self, poses: Array, half: Array, bottom: float, top: float) -> None:
        slot = self._count
        self._poses[slot], self._half[slot], self._span[slot] = poses, half, (bottom, top)
        self._count += 1

    def offer(self, actor: Actor) -> bool:
        """Add the actor if it stays clear of everything; tell whether it was added."""
        poses = actor.motion.poses(self.times)
        gap = (
            (0.12, 0.12)
            if actor.name in ("pedestrian", "barrier", "traffic_cone")
            else (0.45, 0.15)
        )
        half = actor.size[:2] / 2 + gap
        full = self._count >= MOST_ITEMS
        if (
            full
            or not self._quietly(poses)
            or not self._untouched(poses, half, float(actor.size[2]))
        ):
            return False
        self.actors.append(actor)
        self._occupy(poses, actor.size[:2] / 2, 0.0, float(actor.size[2]))
        return True

    def _quietly(self, poses: Array) -> bool:
        """Tell whether something stays out of range while the scene must be empty."""
        distance = np.linalg.norm(poses[:, :2] - self.ego_poses[:, :2], axis=1)
        return not (distance[self._quiet] < ANNOTATION_RANGE + 2).any()

    def _untouched(self, poses: Array, half: Array, top: float, bottom: float = 0.0) -> bool:
        """Tell whether a footprint at poses (T, 3) touches nothing of overlapping height."""
        others, other_half = self._poses[: self._count], self._half[: self._count]
        reach = np.linalg.norm(half) + np.linalg.norm(other_half, axis=1)
        squared = (others[..., 0] - poses[:, 0]) ** 2 + (others[..., 1] - poses[:, 1]) ** 2
        close = squared < reach[:, None] ** 2
        low, high = self._span[: self._count].T
        close &= ((low < top + 0.15) & (high > bottom - 0.15))[:, None]
        which, when = np.nonzero(close)
        pairs = footprints_overlap(poses[when], half, others[which, when], other_half[which])
        return not pairs.any()
