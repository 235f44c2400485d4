"""Four-wheeled and heavier classes of the toy world: car, truck, bus, trailer, construction vehicle.

Every builder draws proportions, variant and paint from ``rng``; sizes follow the benchmark's
statistics. All vehicles share one palette, so that paint does not tell the class. The front is
told from the rear by shape, windscreen and lights.
"""

from __future__ import annotations

import numpy as np

from det3d.data.toy_shapes import DARK, FRONT, GLASS, LEFT, REAR, RIGHT, TOP, Colour, Shape
from det3d.data.toy_shapes import ShapeBuilder as Builder

HEAD_LIGHT: Colour = (0.80, 0.95, 1.0)
TAIL_LIGHT: Colour = (0.08, 0.06, 0.85)
PLATE: Colour = (0.85, 0.85, 0.85)
CHASSIS: Colour = (0.10, 0.10, 0.11)


def random_paint(rng: np.random.Generator) -> Colour:
    """A paint colour: nearly half are greys, the others any hue with moderate saturation."""
    value = rng.uniform(0.12, 0.9)
    if rng.random() < 0.45:
        tint = rng.uniform(-0.03, 0.03, 3)
        return _colour(value + tint)
    hue = rng.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2])
    saturation = rng.uniform(0.35, 0.9)
    return _colour(max(value, 0.3) * (1 - saturation * (0.5 + 0.5 * np.cos(hue))))


def _colour(values: np.ndarray) -> Colour:
    b, g, r = (float(v) for v in np.clip(values, 0.03, 0.95))
    return b, g, r


def shade(colour: Colour, factor: float) -> Colour:
    """A darker or lighter tone."""
    return _colour(np.array(colour) * factor)


def sized(rng: np.random.Generator, mean: tuple[float, float, float], spread: float = 0.08
          ) -> tuple[float, float, float]:  # fmt: skip
    """Length, width, height around the mean: one common factor and one for each side."""
    common = 1 + spread * np.clip(rng.normal(), -1.8, 1.8) * 0.7
    own = 1 + spread * np.clip(rng.normal(size=3), -1.8, 1.8) * 0.5
    length, width, height = np.array(mean) * common * own
    return float(length), float(width), float(height)


def _lights(b: Builder, bottom: float, top: float, *, width: float = 0.2) -> Builder:
    """Head lights, tail lights and number plates on the front and rear face of the last box."""
    for side, paint, glow in ((FRONT, HEAD_LIGHT, 0.5), (REAR, TAIL_LIGHT, 0.45)):
        b.panel(side, 0.03, 0.03 + width, bottom, top, paint, glow)
        b.panel(side, 0.97 - width, 0.97, bottom, top, paint, glow)
        b.panel(side, 0.38, 0.62, 0.12, 0.3, PLATE)
    return b


def _side_windows(b: Builder, spans: list[tuple[float, float]], bottom: float, top: float) -> None:
    """Glass on both sides of the last box; spans are fractions of the length from the rear."""
    for start, end in spans:
        b.panel(RIGHT, start, end, bottom, top, GLASS)
        b.panel(LEFT, 1 - end, 1 - start, bottom, top, GLASS)


def car(rng: np.random.Generator) -> Shape:
    """Sedan, hatchback, SUV or van: body, glazed cabin, wheels, lights."""
    length, width, height = sized(rng, (4.62, 1.92, 1.68))
    kind = rng.choice(4, p=[0.35, 0.3, 0.25, 0.1])
    height *= (0.89, 0.93, 1.06, 1.15)[kind]
    rear, nose = ((-0.36, 0.24), (-0.48, 0.24), (-0.49, 0.26), (-0.495, 0.36))[kind]
    slope_front, slope_rear = ((0.16, 0.09), (0.15, 0.07), (0.13, 0.05), (0.14, 0.02))[kind]
    paint = random_paint(rng)
    waist = height * rng.uniform(0.52, 0.58)
    half_length, half = length / 2, width / 2
    b = Builder()
    b.box((-half_length, -half, 0.24), (half_length, half, waist), paint,
          taper=(0.05 * length, 0.02 * length, 0.04))  # fmt: skip
    _lights(b, 0.5, 0.78)
    b.panel(FRONT, 0.27, 0.73, 0.4, 0.75, DARK)
    for side in (FRONT, REAR):
        b.panel(side, 0.0, 1.0, 0.0, 0.1, CHASSIS)
    for x in (0.02, 0.3):
        for side in (LEFT, RIGHT):
            b.panel(side, 0.5 - x, 0.505 - x, 0.15, 0.98, shade(paint, 0.55))
    radius = rng.uniform(0.31, 0.36)
    b.wheels((-0.30 * length, 0.31 * length), radius, half + 0.005)
    roof = shade(paint, 0.9) if rng.random() < 0.8 else DARK
    b.box((rear * length, -half + 0.06, waist), (nose * length, half - 0.06, height), paint,
          taper=(slope_front * length, slope_rear * length, 0.12), cap=roof)  # fmt: skip
    b.panel(FRONT, 0.06, 0.94, 0.08, 0.9, GLASS)
    b.panel(REAR, 0.1, 0.9, 0.2, 0.88, GLASS)
    _side_windows(b, [(0.1, 0.48), (0.52, 0.92)], 0.12, 0.86)
    return b.build()


def truck(rng: np.random.Generator) -> Shape:
    """Pickup, box truck, flat bed or tipper."""
    kind = rng.choice(4, p=[0.3, 0.35, 0.15, 0.2])
    if kind == 0:
        return _pickup(rng)
    length, width, height = sized(rng, (7.6, 2.5, 3.0), 0.14)
    half_length, half = length / 2, width / 2
    paint, cargo = random_paint(rng), random_paint(rng)
    cab = min(2.1, 0.3 * length)
    top = height * rng.uniform(0.78, 0.92)
    b = Builder()
    b.box((-half_length, -half + 0.1, 0.45), (half_length - 0.3, half - 0.1, 0.95), CHASSIS)
    b.panel(REAR, 0.03, 0.15, 0.3, 0.8, TAIL_LIGHT, 0.4).panel(REAR, 0.85, 0.97, 0.3, 0.8, TAIL_LIGHT, 0.4)
    b.wheels((-0.36 * length, -0.24 * length, 0.34 * length), 0.48, half - 0.02)
    b.box((half_length - cab, -half + 0.05, 0.95), (half_length, half - 0.05, top), paint,
          taper=(0.22, 0, 0.06))  # fmt: skip
    b.panel(FRONT, 0.07, 0.93, 0.5, 0.9, GLASS).panel(FRONT, 0.25, 0.75, 0.08, 0.36, DARK)
    for left in (0.03, 0.83):
        b.panel(FRONT, left, left + 0.14, 0.06, 0.2, HEAD_LIGHT, 0.5)
    _side_windows(b, [(0.3, 0.85)], 0.5, 0.88)
    behind = half_length - cab - 0.12
    if kind == 1:
        b.box((-half_length, -half, 0.95), (behind, half, height), cargo)
        b.panel(REAR, 0.485, 0.515, 0.04, 0.96, shade(cargo, 0.5))
        stripe = random_paint(rng)
        _bands(b, [(0.1, 0.9)], 0.35, 0.62, stripe)
    elif kind == 2:
        b.box((-half_length, -half, 0.95), (behind, half, 1.35), shade(cargo, 0.7))
        end = behind - rng.uniform(0.3, 1.2)
        b.box((-half_length + 0.5, -half + 0.25, 1.35), (end, half - 0.25, height * 0.8),
              random_paint(rng), taper=(0.1, 0.2, 0.1))  # fmt: skip
    else:
        b.box((-half_length, -half + 0.12, 0.95), (behind, half - 0.12, height * 0.88), cargo,
              taper=(0, -0.0, -0.12), cap=shade(cargo, 0.35))  # fmt: skip
        for x in (0.2, 0.4, 0.6, 0.8):
            _bands(b, [(x - 0.015, x + 0.015)], 0.02, 0.98, shade(cargo, 0.6))
    return b.build()


def _bands(b: Builder, spans: list[tuple[float, float]], bottom: float, top: float,
           colour: Colour) -> None:  # fmt: skip
    """Paint both long sides of the last box."""
    for start, end in spans:
        b.panel(RIGHT, start, end, bottom, top, colour)
        b.panel(LEFT, 1 - end, 1 - start, bottom, top, colour)


def _pickup(rng: np.random.Generator) -> Shape:
    length, width, height = sized(rng, (5.6, 2.05, 1.9), 0.06)
    half_length, half = length / 2, width / 2
    paint = random_paint(rng)
    waist = 0.56 * height
    b = Builder()
    b.box((-half_length, -half, 0.38), (half_length, half, waist), paint, taper=(0.12, 0, 0.03))
    _lights(b, 0.45, 0.85, width=0.14)
    b.panel(FRONT, 0.2, 0.8, 0.35, 0.85, DARK)
    b.panel(TOP, 0.06, 0.94, 0.63, 0.98, DARK)
    b.wheels((-0.31 * length, 0.32 * length), 0.42, half + 0.005)
    b.box((-0.1 * length, -half + 0.08, waist), (0.25 * length, half - 0.08, height), paint,
          taper=(0.12 * length, 0.02 * length, 0.12))  # fmt: skip
    b.panel(FRONT, 0.06, 0.94, 0.1, 0.9, GLASS).panel(REAR, 0.1, 0.9, 0.2, 0.85, GLASS)
    _side_windows(b, [(0.06, 0.46), (0.52, 0.9)], 0.15, 0.85)
    return b.build()


def bus(rng: np.random.Generator) -> Shape:
    """City bus: one long glazed body with doors on the kerb side."""
    length, width, height = sized(rng, (11.0, 2.85, 3.35), 0.07)
    half_length, half = length / 2, width / 2
    paint, band = random_paint(rng), random_paint(rng)
    b = Builder()
    b.box((-half_length, -half, 0.32), (half_length, half, height - 0.18), paint, taper=(0.12, 0.03, 0.05))
    b.panel(FRONT, 0.05, 0.95, 0.3, 0.78, GLASS).panel(FRONT, 0.2, 0.8, 0.82, 0.96, DARK)
    b.panel(FRONT, 0.25, 0.7, 0.85, 0.93, (0.2, 0.7, 1.0), 0.7)
    for left in (0.04, 0.8):
        b.panel(FRONT, left, left + 0.16, 0.08, 0.17, HEAD_LIGHT, 0.5)
        b.panel(REAR, left, left + 0.16, 0.12, 0.22, TAIL_LIGHT, 0.45)
    b.panel(REAR, 0.15, 0.85, 0.55, 0.85, GLASS).panel(REAR, 0.2, 0.8, 0.15, 0.4, shade(paint, 0.5))
    _bands(b, [(0.0, 1.0)], 0.22, 0.32, band)
    count = 8
    windows = [(0.03 + k * 0.94 / count, 0.022 + (k + 0.92) * 0.94 / count) for k in range(count)]
    _side_windows(b, windows, 0.42, 0.82)
    for start in (0.44, 0.88):
        b.panel(RIGHT, start, start + 0.09, 0.03, 0.84, GLASS)
    b.wheels((-0.26 * length, 0.29 * length), 0.5, half + 0.005)
    b.box((-0.3 * length, -half + 0.4, height - 0.18), (0.1 * length, half - 0.4, height),
          shade(paint, 0.8), taper=(0.15, 0.15, 0.1))  # fmt: skip
    return b.build()


def trailer(rng: np.random.Generator) -> Shape:
    """Semi-trailer without its tractor: box, tank or loaded platform on rear axles."""
    length, width, height = sized(rng, (11.6, 2.75, 3.75), 0.09)
    half_length, half = length / 2, width / 2
    cargo = random_paint(rng)
    kind = rng.choice(3, p=[0.55, 0.2, 0.25])
    b = Builder()
    b.box((-half_length, -half + 0.25, 0.8), (half_length - 0.3, half - 0.25, 1.15), CHASSIS)
    b.panel(REAR, 0.02, 0.18, 0.1, 0.9, TAIL_LIGHT, 0.4).panel(REAR, 0.82, 0.98, 0.1, 0.9, TAIL_LIGHT, 0.4)
    b.wheels((-0.40 * length, -0.30 * length, -0.20 * length), 0.5, half - 0.05)
    for y in (-0.6, 0.6):
        b.box((0.27 * length, y - 0.1, 0.0), (0.27 * length + 0.2, y + 0.1, 0.8), CHASSIS)
    if kind == 0:
        b.box((-half_length, -half, 1.15), (half_length, half, height), cargo)
        b.panel(REAR, 0.485, 0.515, 0.03, 0.97, shade(cargo, 0.5))
        for left in (0.3, 0.68):
            b.panel(REAR, left, left + 0.02, 0.1, 0.9, (0.5, 0.5, 0.5))
        b.panel(REAR, 0.0, 1.0, 0.0, 0.05, (0.1, 0.1, 0.7))
        _bands(b, [(0.3, 0.8)], 0.4, 0.75, random_paint(rng))
        for x in np.arange(0.05, 1, 0.1):
            _bands(b, [(x, x + 0.006)], 0.0, 1.0, shade(cargo, 0.7))
    elif kind == 1:
        angles = (np.arange(8) + 0.5) * np.pi / 4
        ring = np.stack([np.zeros(8), half * np.cos(angles), (height - 1.15) / 2 * np.sin(angles)], -1)
        middle = np.array([0, 0, (height + 1.15) / 2])
        b.solid(ring * 0.97 + middle + (-half_length, 0, 0), ring * 0.97 + middle + (half_length, 0, 0),
                cargo, shade(cargo, 0.7))  # fmt: skip
    else:
        b.box((-half_length, -half, 1.15), (half_length, half, 1.4), shade(cargo, 0.6))
        b.box((half_length - 0.25, -half, 1.4), (half_length, half, 2.4), shade(cargo, 0.6))
        start = -half_length + 0.4
        while start < half_length - 3.2:
            end = start + rng.uniform(2.0, 2.9)
            b.box((start, -half + 0.2, 1.4), (end, half - 0.2, rng.uniform(0.65, 1.0) * height),
                  random_paint(rng))  # fmt: skip
            start = end + 0.15
    return b.build()


def construction_vehicle(rng: np.random.Generator) -> Shape:
    """Excavator or wheel loader, mostly but not always in yellow."""
    yellow = (0.05 + 0.1 * rng.random(), 0.5 + 0.2 * rng.random(), 0.85)
    paint = yellow if rng.random() < 0.6 else random_paint(rng)
    scale = float(rng.uniform(0.88, 1.15))
    return _excavator(rng, paint, scale) if rng.random() < 0.6 else _loader(rng, paint, scale)


def _excavator(rng: np.random.Generator, paint: Colour, k: float) -> Shape:
    b = Builder()
    for y in (-1.1, 1.1):
        b.box((-1.7 * k, (y - 0.3) * k, 0), (1.7 * k, (y + 0.3) * k, 0.85 * k), CHASSIS,
              taper=(0.25, 0.25, 0))  # fmt: skip
        _bands(b, [(0.1, 0.9)], 0.3, 0.65, (0.25, 0.25, 0.25))
    b.box((-2.0 * k, -1.3 * k, 0.95 * k), (1.2 * k, 1.3 * k, 1.9 * k), paint, taper=(0, 0.3, 0.05))
    b.panel(REAR, 0.1, 0.9, 0.2, 0.7, shade(paint, 0.5))
    _bands(b, [(0.05, 0.5)], 0.25, 0.55, DARK)
    b.box((-0.3 * k, 0.25 * k, 1.9 * k), (1.2 * k, 1.25 * k, 3.1 * k), paint, taper=(0.2, 0, 0.08))
    b.panel(FRONT, 0.08, 0.92, 0.05, 0.92, GLASS).panel(REAR, 0.1, 0.9, 0.4, 0.9, GLASS)
    _side_windows(b, [(0.1, 0.9)], 0.3, 0.9)
    elbow = (rng.uniform(2.7, 3.3) * k, rng.uniform(3.2, 4.1) * k)
    wrist = (elbow[0] + rng.uniform(0.3, 1.1) * k, rng.uniform(0.9, 1.7) * k)
    y = -0.35 * k
    b.beam((0.9 * k, y, 1.6 * k), (elbow[0], y, elbow[1]), 0.5 * k, 0.42 * k, paint)
    b.beam((elbow[0] + 0.1, y, elbow[1]), (wrist[0], y, wrist[1]), 0.36 * k, 0.34 * k, paint)
    b.box((wrist[0] - 0.7 * k, y - 0.55 * k, wrist[1] - 0.9 * k), (wrist[0] + 0.25 * k, y + 0.55 * k, wrist[1]),
          (0.25, 0.25, 0.25), taper=(0.2, 0.35, 0))  # fmt: skip
    return b.build()


def _loader(rng: np.random.Generator, paint: Colour, k: float) -> Shape:
    b = Builder()
    b.box((-3.0 * k, -1.0 * k, 0.75 * k), (-0.4 * k, 1.0 * k, 1.95 * k), paint, taper=(0, 0.35, 0.12))
    b.panel(REAR, 0.15, 0.85, 0.2, 0.8, DARK)
    for left in (0.02, 0.86):
        b.panel(REAR, left, left + 0.12, 0.75, 0.95, TAIL_LIGHT, 0.4)
    b.box((-0.4 * k, -0.7 * k, 0.75 * k), (1.7 * k, 0.7 * k, 1.6 * k), shade(paint, 0.8))
    b.box((-1.2 * k, -0.75 * k, 1.95 * k), (0.4 * k, 0.75 * k, 3.3 * k), paint, taper=(0.12, 0.12, 0.1))
    b.panel(FRONT, 0.08, 0.92, 0.1, 0.92, GLASS).panel(REAR, 0.1, 0.9, 0.2, 0.9, GLASS)
    _side_windows(b, [(0.1, 0.9)], 0.15, 0.9)
    for x in (-1.9, 1.0):
        for y in (-1.15, 1.15):
            b.disc((x * k, y * k, 0.75 * k), 0.75 * k, 0.5 * k, DARK, paint)
    lift = rng.uniform(0.5, 1.6) * k
    for y in (-0.5, 0.5):
        b.beam((0.9 * k, y * k, 1.7 * k), (2.8 * k, y * k, lift + 0.2), 0.3 * k, 0.22 * k, paint)
    b.box((2.7 * k, -1.35 * k, lift - 0.45 * k), (3.7 * k, 1.35 * k, lift + 0.65 * k), shade(paint, 0.6),
          taper=(0.7 * k, 0, 0))  # fmt: skip
    return b.build()
