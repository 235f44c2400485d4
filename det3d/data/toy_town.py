"""The static part of a toy scene: streets, ground, light, buildings, trees and poles.

Town frame: the main street runs along x, the cross street along y, they meet at the origin; z = 0
is the ground. Traffic keeps to the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_shapes import FRONT, LEFT, REAR, RIGHT, Shape, ShapeBuilder

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

LANE = 3.5
PARKING = 2.4
SIDEWALK = 3.6
RESOLUTION = 0.1  # metres per ground pixel
ROAD, PAVEMENT, TERRAIN, BUILDING, VEGETATION, POLE, SKY = range(1, 8)
STUFF = ("road", "sidewalk", "terrain", "building", "vegetation", "pole", "sky")


@dataclass(frozen=True)
class Street:
    """One straight street: ``lanes`` in each direction, a parking strip and a sidewalk each side."""

    lanes: int

    @property
    def kerb(self) -> float:
        """Distance of the kerb from the middle of the street."""
        return self.lanes * LANE + PARKING

    @property
    def parking(self) -> float:
        """Distance of the middle of the parking strip."""
        return self.lanes * LANE + PARKING / 2

    @property
    def edge(self) -> float:
        """Distance of the outer edge of the sidewalk."""
        return self.kerb + SIDEWALK

    def lane(self, index: int) -> float:
        """Distance of the middle of a lane; lane 0 is the innermost."""
        return (index + 0.5) * LANE


@dataclass(frozen=True)
class Town:
    """Both streets and the rectangle (x0, y0, x1, y1) of ground that is modelled in detail."""

    main: Street
    cross: Street
    area: tuple[float, float, float, float]


@dataclass(frozen=True)
class Light:
    """Light and air of a scene; colours BGR.

    sun (3,): unit vector to the sun; direct, ambient: light colours; zenith, horizon: sky colours;
    shadow: how much of the ground's light a shadow takes; haze: metres after which 63 % is horizon.
    """

    sun: Array
    direct: Array
    ambient: Array
    zenith: Array
    horizon: Array
    shadow: float
    haze: float


@dataclass(frozen=True)
class Fixture:
    """Something that stands still and is not annotated; ``stuff`` is its panoptic class."""

    shape: Shape
    stuff: int


LIGHTS = {  # sun elevation in degrees, direct, ambient, zenith, horizon, shadow, haze
    "noon": (58, (0.62, 0.68, 0.72), (0.44, 0.40, 0.37), (0.80, 0.52, 0.28), (0.93, 0.85, 0.76), 0.5, 420),
    "overcast": (65, (0.14, 0.14, 0.14), (0.70, 0.69, 0.68), (0.70, 0.67, 0.64), (0.83, 0.82, 0.81), 0.22, 260),
    "evening": (17, (0.30, 0.55, 0.85), (0.42, 0.34, 0.32), (0.66, 0.46, 0.40), (0.52, 0.72, 0.95), 0.42, 330),
    "dusk": (8, (0.10, 0.08, 0.09), (0.33, 0.24, 0.21), (0.34, 0.20, 0.14), (0.48, 0.40, 0.52), 0.2, 240),
    "mist": (40, (0.16, 0.17, 0.17), (0.62, 0.61, 0.59), (0.76, 0.76, 0.75), (0.80, 0.80, 0.79), 0.15, 95),
}  # fmt: skip


def make_light(rng: np.random.Generator, kind: str | None = None) -> Light:
    """A light of the given or a random kind with a random sun direction and colour cast."""
    kind = kind or str(rng.choice(list(LIGHTS), p=[0.36, 0.22, 0.2, 0.1, 0.12]))
    elevation, direct, ambient, zenith, horizon, shadow, haze = LIGHTS[kind]
    height = np.deg2rad(elevation * rng.uniform(0.8, 1.2))
    azimuth = rng.uniform(0, 2 * np.pi)
    flat = np.cos(height)
    cast = rng.uniform(0.93, 1.07, 3)
    return Light(
        sun=np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(height)]),
        direct=np.array(direct) * cast,
        ambient=np.array(ambient) * cast * rng.uniform(0.9, 1.1),
        zenith=np.array(zenith) * cast,
        horizon=np.array(horizon) * cast,
        shadow=shadow,
        haze=haze * rng.uniform(0.8, 1.25),
    )


@dataclass(frozen=True)
class Ground:
    """Ground seen from above, rows along y and columns along x from (area x0, y0).

    colours (h, w, 3) uint8 BGR, lit; labels (h, w) uint8 in ``ROAD``, ``PAVEMENT``, ``TERRAIN``.
    """

    colours: Image
    labels: Image


def paint_ground(town: Town, light: Light, fixtures: list[Fixture], rng: np.random.Generator) -> Ground:
    """Draw streets, markings, pavements and lawns, and the shadows of the fixtures."""
    x0, y0, x1, y1 = town.area
    size = (round((y1 - y0) / RESOLUTION), round((x1 - x0) / RESOLUTION))
    labels = np.full(size, TERRAIN, np.uint8)
    for half_main, half_cross, label in (
        (town.main.edge, town.cross.edge, PAVEMENT),
        (town.main.kerb, town.cross.kerb, ROAD),
    ):
        _fill(labels, town, (x0, -half_main, x1, half_main), label)
        _fill(labels, town, (-half_cross, y0, half_cross, y1), label)
    asphalt = rng.uniform(0.26, 0.42)
    paving = rng.uniform(0.5, 0.68)
    palette = np.zeros((8, 3))
    palette[ROAD] = asphalt * rng.uniform(0.96, 1.04, 3)
    palette[PAVEMENT] = paving * rng.uniform(0.93, 1.03, 3)
    palette[TERRAIN] = np.array([0.16, 0.36, 0.27]) * rng.uniform(0.75, 1.25, 3)
    brightness = light.ambient + light.direct * light.sun[2]
    colours = np.clip(palette * brightness * 255, 0, 255).astype(np.uint8)[labels]
    marking = tuple(np.clip(0.86 * brightness * 255, 0, 255).tolist())
    _markings(colours, town, marking, rng)
    shadows = _fixture_shadows(size, town, light, fixtures)
    return Ground(_textured(colours, labels, shadows, light.shadow, rng), labels)


def _pixels(town: Town, points: Array) -> NDArray[np.int32]:
    """Ground pixels with 4 fractional bits of points (N, 2) in metres."""
    pixels = (points - np.array(town.area[:2])) / RESOLUTION - 0.5
    return np.round(pixels * 16).astype(np.int32)


def _fill(image: Image, town: Town, rectangle: tuple[float, float, float, float], colour: object) -> None:
    x0, y0, x1, y1 = rectangle
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    cv2.fillConvexPoly(image, _pixels(town, corners), colour, cv2.LINE_8, 4)  # type: ignore[call-overload]


def _markings(image: Image, town: Town, colour: tuple[float, ...], rng: np.random.Generator) -> None:
    """Centre lines, lane dashes, parking lines, stop lines and crossings of both streets."""
    x0, y0, x1, y1 = town.area
    yellow = (colour[0] * 0.35, colour[1] * 0.8, colour[2])
    centre_colour = yellow if rng.random() < 0.6 else colour
    for street, other, flip, low, high in (
        (town.main, town.cross, False, x0, x1), (town.cross, town.main, True, y0, y1),
    ):  # fmt: skip

        def stripe(
            a: float, b: float, c: float, d: float, paint: tuple[float, ...], turned: bool = flip
        ) -> None:
            _fill(image, town, (c, a, d, b) if turned else (a, c, b, d), paint)

        gap = other.kerb + 1.2
        for start, end in ((low, -gap - 3.5), (gap + 3.5, high)):
            stripe(start, end, -0.18, -0.06, centre_colour)
            stripe(start, end, 0.06, 0.18, centre_colour)
            for side in (-1, 1):
                line = side * street.lanes * LANE
                stripe(start, end, line - 0.06, line + 0.06, colour)
                for lane in range(1, street.lanes):
                    for dash in np.arange(start, end - 3, 7.5):
                        stripe(dash, dash + 3, side * lane * LANE - 0.07, side * lane * LANE + 0.07, colour)
        for side in (-1, 1):
            for bar in np.arange(-street.kerb + 0.5, street.kerb - 0.5, 1.1):
                edges = sorted((side * gap, side * (gap + 2.6)))
                stripe(*edges, bar, bar + 0.55, colour)
            reach = sorted((0.0, -side * (street.lanes * LANE) if not flip else side * street.lanes * LANE))
            edges = sorted((side * (gap + 3.3), side * (gap + 3.75)))
            near = (-reach[1], -reach[0])
            stripe(*edges, *near, colour)


def _fixture_shadows(size: tuple[int, int], town: Town, light: Light, fixtures: list[Fixture]) -> Image:
    """Shadows (h, w) of everything that stands still, 0 to 255."""
    shadows = np.zeros(size, np.uint8)
    for fixture in fixtures:
        for hull in shadow_hulls(fixture.shape, light.sun, fixture.shape.vertices):
            cv2.fillConvexPoly(shadows, _pixels(town, hull), 255, cv2.LINE_8, 4)  # type: ignore[call-overload]
    return cv2.blur(shadows, (5, 5)).astype(np.uint8)


def shadow_hulls(shape: Shape, sun: Array, vertices: Array) -> list[Array]:
    """Ground polygons (k, 2) in the shadow of each solid; ``vertices`` (N, 3) are as placed."""
    reach = vertices[:, 2:] / max(sun[2], 0.2)
    cast = (vertices[:, :2] - reach * sun[:2]).astype(np.float32)
    hulls = []
    for solid in range(len(shape.lower)):
        faces = shape.faces[(shape.solids == solid) & ~shape.details]
        hulls.append(cv2.convexHull(cast[np.unique(faces)])[:, 0].astype(float))
    return hulls


def _textured(colours: Image, labels: Image, shadows: Image, strength: float,
              rng: np.random.Generator) -> Image:  # fmt: skip
    """Add grain, stains and paving joints by repeating tiles, and darken the shadows."""
    tile = 512
    fine = rng.normal(0, 1, (tile, tile)).astype(np.float32)
    coarse = cv2.GaussianBlur(rng.normal(0, 1, (tile, tile)).astype(np.float32), (0, 0), 9)
    coarse /= coarse.std()
    joints = np.zeros((tile, tile), np.float32)
    joints[::16] = joints[:, ::16] = -1
    gains = {ROAD: 0.035 * fine + 0.045 * coarse, PAVEMENT: 0.03 * fine + 0.03 * coarse + 0.14 * joints,
             TERRAIN: 0.12 * fine + 0.14 * coarse}  # fmt: skip
    patterns = np.ones((8, tile, tile), np.float32)
    for label, gain in gains.items():
        patterns[label] += gain
    lit = np.empty_like(colours)
    rows, columns = labels.shape
    for top in range(0, rows, tile):
        for left in range(0, columns, tile):
            part = np.s_[top : top + tile, left : left + tile]
            block = labels[part]
            height, width = block.shape
            gain = np.take_along_axis(patterns[:, :height, :width], block[None].astype(np.intp), 0)[0]
            gain *= 1 - strength / 255 * shadows[part]
            lit[part] = np.clip(colours[part] * gain[..., None], 0, 255).astype(np.uint8)
    return lit


def make_fixtures(town: Town, rng: np.random.Generator) -> list[Fixture]:
    """Buildings and hedges behind the sidewalks, trees and lamp posts along the kerbs."""
    fixtures: list[Fixture] = []
    x0, y0, x1, y1 = town.area
    for street, other, flip, low, high in (
        (town.main, town.cross, False, x0, x1), (town.cross, town.main, True, y0, y1),
    ):  # fmt: skip
        for side in (-1, 1):
            for start, end in ((low, -other.edge - 2.5), (other.edge + 2.5, high)):
                fixtures += _row(street, side, start, end, flip, rng)
    return fixtures


def _row(street: Street, side: int, start: float, end: float, flip: bool,
         rng: np.random.Generator) -> list[Fixture]:  # fmt: skip
    """One side of one street between two crossings."""
    row: list[Fixture] = []
    place, last = start + rng.uniform(0, 3), end
    if flip:  # corner plots belong to the main street's row
        place, last = max(place, 32 if start > 0 else place), min(end, -32 if end < 0 else end)
    while place < last - 6:
        length = min(rng.uniform(8, 16), last - place)
        near = street.edge + rng.uniform(1.5, 5)
        draw = rng.random()
        if draw < 0.62:
            row.append(_building((place, place + length), side, (near, near + rng.uniform(7, 12)), flip, rng))
        elif draw < 0.78:
            centre = (place + length / 2, side * (near + 2))
            row += _tree(centre[::-1] if flip else centre, rng, 1.25)
        place += length + rng.uniform(0.8, 6)
    for mark in np.arange(start + rng.uniform(2, 8), end - 2, 11.0):
        spot = (mark + rng.uniform(-2, 2), side * (street.kerb + 0.7))
        draw = rng.random()
        if draw < 0.38:
            row += _tree(spot[::-1] if flip else spot, rng, 1.0)
        elif draw < 0.7:
            row += _lamp(spot[::-1] if flip else spot, side, flip)
    return row


def _building(span: tuple[float, float], side: int, depth: tuple[float, float], flip: bool,
              rng: np.random.Generator) -> Fixture:  # fmt: skip
    a, b = sorted((side * depth[0], side * depth[1]))
    floors = int(rng.integers(1, 6))
    height = 3.1 * floors + 0.8
    hue = np.array([0.45, 0.5, 0.58]) + rng.uniform(-0.16, 0.16) + rng.uniform(-0.07, 0.07, 3)
    wall = (float(hue[0]), float(hue[1]), float(hue[2]))
    builder = ShapeBuilder()
    lower, upper = (span[0], a, 0.0), (span[1], b, height)
    if flip:
        lower, upper = (a, span[0], 0.0), (b, span[1], height)
    builder.box(lower, upper, wall, cap=(0.35, 0.35, 0.37))
    pane = (0.42, 0.33, 0.26) if rng.random() < 0.7 else (0.2, 0.17, 0.15)
    glow = 0.25 if rng.random() < 0.3 else 0.0
    for face in (FRONT, LEFT, REAR, RIGHT):
        width = upper[1] - lower[1] if face in (FRONT, REAR) else upper[0] - lower[0]
        count = max(2, int(width // 2.8))
        for floor in range(floors):
            bottom, top = (3.1 * floor + 1.0) / height, (3.1 * floor + 2.5) / height
            for k in range(count):
                builder.panel(face, (k + 0.25) / count, (k + 0.75) / count, bottom, top, pane, glow)
    return Fixture(builder.build(centred=False), BUILDING)


def _tree(spot: tuple[float, ...], rng: np.random.Generator, scale: float) -> list[Fixture]:
    """Trunk and crown, two fixtures because the crown hangs over its surroundings."""
    x, y = spot
    clear = rng.uniform(2.8, 4.0) * scale
    radius = rng.uniform(1.1, 1.9) * scale
    green = np.array([0.12, 0.36, 0.24]) * rng.uniform(0.6, 1.25) * rng.uniform(0.85, 1.15, 3)
    leaf = (float(green[0]), float(green[1]), float(green[2]))
    trunk = ShapeBuilder().prism((x, y, 0), 0.17, 0.12, clear, (0.16, 0.22, 0.3), sides=6)
    crown = ShapeBuilder()
    crown.prism((x, y, clear), radius * 0.65, radius, radius * 0.7, leaf, sides=7)
    crown.prism((x, y, clear + radius * 0.7), radius, radius * 0.72, radius * 0.8, leaf, sides=7)
    crown.prism((x, y, clear + radius * 1.5), radius * 0.72, radius * 0.15, radius * 0.6, leaf, sides=7)
    return [Fixture(part.build(centred=False), VEGETATION) for part in (trunk, crown)]


def _lamp(spot: tuple[float, ...], side: int, flip: bool) -> list[Fixture]:
    x, y = spot
    post = ShapeBuilder().prism((x, y, 0), 0.11, 0.06, 6.5, (0.3, 0.3, 0.3), sides=6)
    reach = -side * 1.8
    ends = sorted((0.0, reach))
    arm = ShapeBuilder()
    if flip:
        arm.box((x + ends[0], y - 0.08, 6.5), (x + ends[1], y + 0.08, 6.62), (0.3, 0.3, 0.3))
    else:
        arm.box((x - 0.08, y + ends[0], 6.5), (x + 0.08, y + ends[1], 6.62), (0.3, 0.3, 0.3))
    return [Fixture(part.build(centred=False), POLE) for part in (post, arm)]
