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

    def __init__(self, ego: Motion, duration: float, fixtures: list[Fixture],
                 quiet: tuple[float, float] | None) -> None:  # fmt: skip
        self.actors: list[Actor] = []
        self.times = np.arange(-0.2, duration + 0.2, 0.2)
        self.ego_poses = ego.poses(self.times)
        self._quiet = np.zeros(len(self.times), bool)
        if quiet is not None:
            self._quiet = (self.times >= quiet[0] - 0.25) & (self.times <= quiet[1] + 0.25)
        body = self.ego_poses.copy()
        body[:, 0] += EGO_CENTRE * np.cos(body[:, 2])
        body[:, 1] += EGO_CENTRE * np.sin(body[:, 2])
        self._poses = [body]
        self._half = [EGO_HALF + (0.8, 0.25)]
        self._bottom = [0.0]
        for fixture in fixtures:
            lower, upper = fixture.shape.bounds
            still = np.array([*(lower + upper)[:2] / 2, 0.0])
            self._poses.append(np.broadcast_to(still, body.shape))
            self._half.append((upper - lower)[:2] / 2)
            self._bottom.append(float(lower[2]))

    def offer(self, actor: Actor) -> bool:
        """Add the actor if it stays clear of everything; tell whether it was added."""
        poses = actor.motion.poses(self.times)
        gap = (0.12, 0.12) if actor.name in ("pedestrian", "barrier", "traffic_cone") else (0.45, 0.15)
        half = actor.size[:2] / 2 + gap
        if not self._clear(poses, half, float(actor.size[2])):
            return False
        self.actors.append(actor)
        self._poses.append(poses)
        self._half.append(actor.size[:2] / 2)
        self._bottom.append(0.0)
        return True

    def _clear(self, poses: Array, half: Array, height: float) -> bool:
        distance = np.linalg.norm(poses[:, :2] - self.ego_poses[:, :2], axis=1)
        if (distance[self._quiet] < ANNOTATION_RANGE + 2).any():
            return False
        others, other_half = np.stack(self._poses), np.stack(self._half)  # (N, T, 3), (N, 2)
        reach = np.linalg.norm(half) + np.linalg.norm(other_half, axis=1)
        close = np.hypot(*np.moveaxis(others[..., :2] - poses[:, :2], -1, 0)) < reach[:, None]
        close &= (np.array(self._bottom) < height + 0.15)[:, None]
        which, when = np.nonzero(close)
        pairs = footprints_overlap(poses[when], half, others[which, when], other_half[which])
        return not pairs.any()
