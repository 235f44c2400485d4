"""Small classes of the toy world: people, two-wheelers, barriers and cones."""

from __future__ import annotations

import numpy as np

from det3d.data.toy_shapes import DARK, FRONT, LEFT, REAR, RIGHT, Colour, Shape
from det3d.data.toy_shapes import ShapeBuilder as Builder
from det3d.data.toy_vehicles import HEAD_LIGHT, TAIL_LIGHT, random_paint, shade

SKIN: tuple[Colour, ...] = ((0.55, 0.68, 0.88), (0.4, 0.52, 0.72), (0.2, 0.28, 0.42))
HAIR: tuple[Colour, ...] = ((0.06, 0.07, 0.09), (0.1, 0.2, 0.35), (0.35, 0.6, 0.75), (0.6, 0.6, 0.6))


def _choose(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[rng.integers(len(colours))]


def _head(b: Builder, rng: np.random.Generator, x: float, bottom: float, size: float,
          cover: Colour) -> None:  # fmt: skip
    """Head with a face in front and hair, cap or helmet (``cover``) elsewhere."""
    half = 0.5 * size
    b.box((x - half, -0.8 * half, bottom), (x + half, 0.8 * half, bottom + 1.25 * size), cover,
          taper=(0.25 * half, 0.3 * half, 0.25 * half))  # fmt: skip
    skin = _choose(rng, SKIN)
    b.panel(FRONT, 0.0, 1.0, 0.0, 0.72, skin)
    b.panel(RIGHT, 0.55, 1.0, 0.0, 0.6, skin).panel(LEFT, 0.0, 0.45, 0.0, 0.6, skin)


def pedestrian(rng: np.random.Generator, *, child: bool = False, worker: bool = False,
               walking: bool = True) -> Shape:  # fmt: skip
    """A person: legs in stride, torso, arms, head with a face; sometimes a backpack or a skirt."""
    height = rng.uniform(1.05, 1.4) if child else float(np.clip(rng.normal(1.74, 0.09), 1.5, 1.95))
    h = height / 1.75
    stride = rng.uniform(0.15, 0.34) * h if walking else 0.03
    coat, trousers = random_paint(rng), random_paint(rng)
    if worker:
        coat = (0.1, 0.75, 0.9) if rng.random() < 0.5 else (0.1, 0.45, 0.95)
    hip, neck = 0.82 * h, 1.46 * h
    first = 1 if rng.random() < 0.5 else -1
    b = Builder()
    for side in (-1, 1):
        foot = side * first * stride
        b.beam((foot, side * 0.1 * h, 0.05), (0, side * 0.09 * h, hip), 0.17 * h, 0.16 * h, trousers)
        b.box((foot - 0.1 * h, side * 0.1 * h - 0.06, 0), (foot + 0.17 * h, side * 0.1 * h + 0.06, 0.09), DARK)
    b.box((-0.13 * h, -0.2 * h, hip), (0.13 * h, 0.2 * h, neck), coat, taper=(-0.02, 0.02, -0.04 * h))
    b.panel(FRONT, 0.42, 0.58, 0.1, 0.98, shade(coat, 0.6 if sum(coat) > 1 else 1.8))
    if worker:
        for side in range(4):
            b.panel(side, 0, 1, 0.3, 0.42, (0.9, 0.9, 0.9), 0.3)
    for side in (-1, 1):
        hand = -side * first * stride * 0.8
        b.beam((hand, side * 0.28 * h, 0.78 * h), (0, side * 0.27 * h, neck - 0.04), 0.11 * h, 0.1 * h,
               shade(coat, 0.85))  # fmt: skip
    cover = (0.1, 0.8, 0.95) if worker else _choose(rng, HAIR)
    _head(b, rng, 0.02 * h, neck + 0.02, 0.22 * h, cover)
    if not worker and rng.random() < 0.3:
        b.box((-0.33 * h, -0.15 * h, 0.95 * h), (-0.14 * h, 0.15 * h, 1.42 * h), random_paint(rng))
    return b.build()


def _rider(b: Builder, rng: np.random.Generator, seat: tuple[float, float], bars: tuple[float, float],
           foot: tuple[float, float]) -> None:  # fmt: skip
    """A seated person; seat, bars and foot are (x, z)."""
    coat, trousers = random_paint(rng), random_paint(rng)
    shoulder = (seat[0] + 0.55 * (bars[0] - seat[0]) * 0.8, seat[1] + 0.55)
    knee = ((seat[0] + foot[0]) / 2 + 0.22, (seat[1] + foot[1]) / 2 + 0.14)
    for y in (-0.14, 0.14):
        b.beam((seat[0], y, seat[1]), (knee[0], y, knee[1]), 0.17, 0.15, trousers)
        b.beam((knee[0], y, knee[1]), (foot[0], y, foot[1]), 0.13, 0.12, trousers)
    b.beam((seat[0], 0, seat[1] - 0.05), (shoulder[0], 0, shoulder[1]), 0.26, 0.4, coat)
    for y in (-0.24, 0.24):
        b.beam((shoulder[0], y, shoulder[1] - 0.06), (bars[0], y, bars[1]), 0.1, 0.1, shade(coat, 0.85))
    cover = random_paint(rng) if rng.random() < 0.7 else _choose(rng, HAIR)
    _head(b, rng, shoulder[0] + 0.06, shoulder[1] + 0.02, 0.24, cover)


def bicycle(rng: np.random.Generator, *, rider: bool) -> Shape:
    """Two thin wheels, a triangle frame, handle bars, with or without a rider."""
    k = float(rng.uniform(0.93, 1.07))
    paint, grey = random_paint(rng), (0.42, 0.42, 0.42)
    radius, base = 0.34 * k, 0.52 * k
    b = Builder()
    for x in (-base, base):
        b.disc((x, 0, radius), radius, 0.06, DARK, grey)
    crank, seat, stem = (-0.05, 0.3 * k), (-0.22 * k, 0.9 * k), (0.38 * k, 0.85 * k)
    for p, q in ((crank, stem), (crank, seat), (seat, stem), ((-base, radius), crank), ((base, radius), stem)):
        b.beam((p[0], 0, p[1]), (q[0], 0, q[1]), 0.07, 0.06, paint)
    b.box((-0.36 * k, -0.08, 0.9 * k), (-0.08 * k, 0.08, 0.97 * k), DARK)
    b.box((0.36 * k, -0.28 * k, 0.97 * k), (0.44 * k, 0.28 * k, 1.03 * k), DARK)
    b.panel(FRONT, 0.42, 0.58, 0, 1, HEAD_LIGHT, 0.6)
    if rng.random() < 0.4:
        b.box((0.44 * k, -0.18, 0.72 * k), (0.72 * k, 0.18, 0.98 * k), random_paint(rng))
    if rider:
        _rider(b, rng, (-0.22 * k, 0.97 * k), (0.38 * k, 1.06 * k), (-0.02, 0.25 * k))
    return b.build()


def motorcycle(rng: np.random.Generator, *, rider: bool) -> Shape:
    """Motorcycle or scooter: fat wheels, engine block, tank, seat, lights; maybe a rider."""
    k = float(rng.uniform(0.94, 1.08))
    paint = random_paint(rng)
    scooter = rng.random() < 0.35
    radius, base = (0.25 if scooter else 0.32) * k, 0.68 * k
    b = Builder()
    for x in (-base, base):
        b.disc((x, 0, radius), radius, 0.16, DARK, (0.5, 0.5, 0.5))
    b.box((-0.4 * k, -0.17, 0.25 * k), (0.3 * k, 0.17, 0.62 * k), paint if scooter else (0.25, 0.25, 0.25))
    b.box((-0.1 * k, -0.16, 0.63 * k), (0.38 * k, 0.16, 0.92 * k), paint, taper=(0.1, 0.12, 0.03))
    b.box((-0.85 * k, -0.14, 0.66 * k), (-0.11 * k, 0.14, 0.82 * k), DARK, taper=(0, 0.12, 0))
    b.panel(REAR, 0.2, 0.8, 0.1, 0.9, TAIL_LIGHT, 0.5)
    b.beam((base, 0, radius), (0.42 * k, 0, 0.95 * k), 0.12, 0.18, paint if scooter else (0.4, 0.4, 0.4))
    b.box((0.42 * k, -0.36 * k, 0.96 * k), (0.52 * k, 0.36 * k, 1.04 * k), DARK)
    b.box((0.5 * k, -0.14, 0.74 * k), (0.66 * k, 0.14, 0.98 * k), paint, taper=(0.06, 0, 0.02))
    b.panel(FRONT, 0.2, 0.8, 0.25, 0.85, HEAD_LIGHT, 0.6)
    if rng.random() < 0.35:
        b.box((-0.95 * k, -0.2, 0.84 * k), (-0.55 * k, 0.2, 1.14 * k), random_paint(rng))
    if rider:
        _rider(b, rng, (-0.28 * k, 0.88 * k), (0.42 * k, 1.04 * k), (0.05, 0.28 * k))
    return b.build()


def barrier(rng: np.random.Generator) -> Shape:
    """Concrete, water-filled or plank barrier; long across its heading, as the benchmark has it."""
    width = float(rng.uniform(1.7, 2.7))
    height = float(rng.uniform(0.85, 1.1))
    half = width / 2
    kind = rng.choice(3)
    first, second = random_paint(rng), random_paint(rng)
    if rng.random() < 0.5:
        first, second = ((0.1, 0.15, 0.85), (0.9, 0.9, 0.9))
    b = Builder()
    if kind == 0:
        grey = float(rng.uniform(0.45, 0.75))
        b.box((-0.3, -half, 0), (0.3, half, 0.3), (grey, grey, grey), taper=(0.1, 0.1, 0))
        b.box((-0.2, -half, 0.3), (0.2, half, height), (grey, grey, grey), taper=(0.1, 0.1, 0))
        for side in (FRONT, REAR):
            b.panel(side, 0.05, 0.95, 0.62, 0.82, first)
    elif kind == 1:
        b.box((-0.28, -half, 0), (0.28, half, height), first, taper=(0.14, 0.14, 0.02))
        for side in (FRONT, REAR):
            b.panel(side, 0.0, 0.33, 0.0, 1.0, second).panel(side, 0.66, 1.0, 0.0, 1.0, second)
    else:
        for y in (-half + 0.15, half - 0.25):
            b.box((-0.28, y, 0), (0.28, y + 0.1, 0.12), DARK)
            b.box((-0.04, y, 0.12), (0.04, y + 0.1, 0.45 * height), (0.5, 0.5, 0.5))
        for bottom, top in ((0.45, 0.68), (0.76, 1.0)):
            b.box((-0.05, -half, bottom * height), (0.05, half, top * height), second)
            for side in (FRONT, REAR):
                for start in (0.0, 0.28, 0.56, 0.84):
                    b.panel(side, start, start + 0.14, 0, 1, first)
    return b.build()


def traffic_cone(rng: np.random.Generator) -> Shape:
    """A banded cone on a square foot."""
    height = float(rng.uniform(0.65, 1.15))
    radius = float(rng.uniform(0.15, 0.21))
    paint = (0.08, 0.3, 0.92) if rng.random() < 0.65 else random_paint(rng)
    band: Colour = (0.92, 0.92, 0.92)
    b = Builder()
    b.box((-radius - 0.05, -radius - 0.05, 0), (radius + 0.05, radius + 0.05, 0.06), shade(paint, 0.5))
    cuts = (0.06, 0.36 * height, 0.56 * height, 0.72 * height, 0.85 * height, height)
    for k in range(5):
        low, high = cuts[k], cuts[k + 1]
        low_radius, high_radius = (radius * (1 - 0.82 * z / height) for z in (low, high))
        b.prism((0, 0, low), low_radius, high_radius, high - low, (paint, band)[k % 2], sides=6)
    return b.build()
