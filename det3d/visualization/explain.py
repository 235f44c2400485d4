"""The picture of an explanation in 3D: what a query looked at in the cameras, and its way above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from det3d.geometry import Region
from det3d.structures import SceneBatch
from det3d.visualization.birds_eye import draw_birds_eye
from det3d.visualization.cameras import (
    GAP,
    PictureStyle,
    View,
    draw_view,
    mosaic,
    scene_views,
)
from det3d.visualization.canvas import write_title
from det3d.visualization.contents import Contents, QueryTrails, box_layers, query_trails
from det3d.visualization.palette import PANEL
from detr2d.explain import Explanation, draw_dots, heat_map, lay_heat
from detr2d.looks import Looks

HEAVY_PLACE, HEAVY_CELL = 0.05, 0.5  # share of the largest weight that a panel has to show
LEAST_PANELS = 3
ZOOM_MARGIN = 24.0  # pixels of the camera around what a layer's panel shows
LEAST_REACH = 15.0  # metres to each side in the view from above
PANEL_SHAPE = 0.75  # height of a layer's panel over its width


def draw_scene_explanation(
    scene: SceneBatch,
    explanation: Explanation,
    *,
    class_names: tuple[str, ...],
    camera_names: Sequence[str],
    region: Region | None,
    title: str = "",
    style: PictureStyle | None = None,
) -> np.ndarray:
    """All cameras under all layers' looks beside the view from above; below, a panel per layer.

    ``scene`` is a batch of one with uint8 images as the model saw them. Cameras beyond the
    ``camera_names`` are the same ones at earlier moments and stand below the present ones. The
    panels show the camera with most of the weight, around the box. ``region`` is the one that
    references live in, None where a system has none: then the view from above shows no way.
    Returns (H, W, 3) uint8 RGB.
    """
    style = style or PictureStyle()
    contents = Contents(class_names=class_names, detections=explanation.found)
    total = sum_of_looks(explanation.layers)
    present, *earlier = moments(scene, camera_names)
    names = [name for moment in (present, *earlier) for name in moment.names]
    rows = [row for m in (present, *earlier) for row in scene_views(m.scene, style, m.names)]
    tiles = [
        [
            draw_view(
                look_at(view, scene, names.index(view.name), total),
                box_layers(contents),
                None,
                style,
            )
            for view in row
        ]
        for row in rows
    ]
    cameras = mosaic(tiles)
    trails = way_of_the_box(explanation, region)
    above = draw_birds_eye(
        present.scene.rig,
        replace(contents, trails=trails),
        size=cameras.shape[0],
        style=replace(style, reach=reach_of(explanation, trails)),
    )
    upper = np.concatenate([cameras, np.full((len(cameras), GAP, 3), PANEL, np.uint8), above], 1)
    best = max(
        (view for row in rows for view in row),
        key=lambda view: (
            weight_in(total, names.index(view.name)),
            -off_centre(view, explanation.found.boxes),
        ),
    )
    lower = layer_panels(best, names.index(best.name), scene, explanation, contents, upper.shape[1])
    picture = np.concatenate([upper, np.full((GAP, upper.shape[1], 3), PANEL, np.uint8), lower])
    return write_title(picture, title, style.font_size) if title else picture


@dataclass(frozen=True)
class Moment:
    """The cameras of one moment of a scene, and their names."""

    scene: SceneBatch
    names: tuple[str, ...]


def moments(scene: SceneBatch, camera_names: Sequence[str]) -> list[Moment]:
    """The present cameras of a batch of one, then the same ones earlier if there are more.

    The names of earlier cameras say by how many seconds. Raises ValueError if the cameras are no
    whole number of times as many as the names.
    """
    count, rig = len(camera_names), scene.rig
    if rig.num_cameras % count:
        raise ValueError(f"{rig.num_cameras} cameras are no multiple of the {count} names")
    found = []
    for first in range(0, rig.num_cameras, count):
        places = list(range(first, first + count))
        part = replace(scene, images=scene.images[:, places], rig=rig.select(places))
        both = rig.present[0, :count] & part.rig.present[0]
        gap = (rig.timestamps[0, :count] - part.rig.timestamps[0])[both]
        past = f", {gap.mean():.1f} s earlier" if first and len(gap) else ", earlier"
        found.append(Moment(part, tuple(f"{n}{past if first else ''}" for n in camera_names)))
    return found


def way_of_the_box(explanation: Explanation, region: Region | None) -> QueryTrails | None:
    """From the reference point of the query over the box's centre after each layer.

    Where a system refines its reference, these centres are the references of the next layers.
    """
    trails = None
    if region is not None:
        trails = query_trails(explanation.predictions, explanation.found, region)
    if trails is None:
        return None
    centres = explanation.predictions.codes[:, 0, explanation.found.queries, :3]
    return replace(trails, references=torch.cat([trails.references[:1], centres.float().cpu()]))


def reach_of(explanation: Explanation, trails: QueryTrails | None) -> float:
    """Metres to each side of the vehicle that hold the box and its way."""
    box = explanation.found.boxes[0].float()
    points = [box[:2].abs() + box[3:5].max() / 2]
    if trails is not None:
        points.append(trails.references[..., :2].flatten())
    return max(LEAST_REACH, 1.15 * float(torch.cat(points).abs().max()))


def sum_of_looks(layers: Sequence[Looks]) -> Looks:
    """The looks of all layers as one: means over a grid, else all places together."""
    first = layers[0]
    if first.grid is not None:
        mean = torch.stack([looks.weights for looks in layers]).mean(0)
        return Looks(first.places, mean, first.grid)
    places = torch.cat([looks.places for looks in layers], dim=3)
    return Looks(places, torch.cat([looks.weights for looks in layers], dim=3))


def weight_in(looks: Looks, camera: int) -> float:
    """The weight of one query in one camera."""
    return float(looks.weights[0, camera, 0].sum())


def off_centre(view: View, boxes: Tensor) -> float:
    """How far from the middle of a view a box (1, 9) is, in half widths; infinite behind it."""
    ray = view.rays(boxes[:, :3].double().numpy())[0]
    if ray[2] <= 0:
        return math.inf
    middle = np.array([view.width, view.height]) / 2
    return float(np.abs((ray[:2] / ray[2] - middle) / middle).max())


def look_at(view: View, scene: SceneBatch, camera: int, looks: Looks) -> View:
    """A view whose image, at its drawn size, shows the looks of one query."""
    canvas = (scene.images.shape[-2], scene.images.shape[-1])
    scale = view.width / view.image.shape[1]
    image = torch.from_numpy(view.image).permute(2, 0, 1)
    if looks.grid is not None:
        heat = heat_map(looks, camera, canvas)[: image.shape[1], : image.shape[2]]
        painted = lay_heat(image, heat)
    else:
        drawn = torch.nn.functional.interpolate(
            image[None].float(), size=(view.height, view.width), mode="bilinear", antialias=True
        )[0].round()
        seen = looks.weights[0, camera, 0] > 0
        pixels = scale * looks.places[0, camera, 0][seen] * torch.tensor([canvas[1], canvas[0]])
        weights = looks.weights[0, camera, 0][seen] / looks.weights.amax().clamp(min=1e-12)
        painted = draw_dots(drawn.byte(), pixels, weights) if len(pixels) else drawn.byte()
    return replace(view, image=painted.permute(1, 2, 0).contiguous().numpy())


def layer_panels(
    view: View,
    camera: int,
    scene: SceneBatch,
    explanation: Explanation,
    contents: Contents,
    width: int,
) -> np.ndarray:
    """One panel per layer, side by side, cut out around the box and the places: (h, width, 3).

    A panel is at most as wide as if there were ``LEAST_PANELS`` of them.
    """
    count = max(LEAST_PANELS, len(explanation.layers))
    each = (width - GAP * (count - 1)) // count
    window = window_around(view, camera, scene, explanation)
    panels = []
    for number, looks in enumerate(explanation.layers, start=1):
        whole = float(looks.weights.sum())
        what = f"{weight_in(looks, camera) / max(whole, 1e-12):.0%} of the weight in {view.name}"
        name = f"layer {number}: " + (what if whole else "its places are in no image")
        zoomed = look_at(cut(view, window, each), scene_of(scene, window), camera,
                         shifted(looks, scene, window))  # fmt: skip
        style = PictureStyle(camera_width=each, font_size=12)
        panels.append(draw_view(replace(zoomed, name=name), box_layers(contents), None, style))
    joined = mosaic([panels])
    rest = width - joined.shape[1]
    return np.concatenate([joined, np.full((len(joined), rest, 3), PANEL, np.uint8)], axis=1)


Window = tuple[int, int, int, int]  # left, top, width, height in pixels of the image


def window_around(view: View, camera: int, scene: SceneBatch, explanation: Explanation) -> Window:
    """The part of a camera's image that holds the places with most weight and the box."""
    height, width = view.image.shape[:2]
    canvas = torch.tensor([scene.images.shape[-1], scene.images.shape[-2]])
    centre = torch.as_tensor(explanation.found.boxes[:1, :3]).double().numpy()
    ray = view.rays(centre)[0] * (width / view.width, width / view.width, 1)
    pixel = torch.from_numpy(ray[:2] / ray[2]).float() if ray[2] > 1 else torch.tensor([-1.0, -1])
    in_sight = bool(((pixel >= 0) & (pixel < torch.tensor([width, height]))).all())
    points = [pixel[None]] if in_sight else []
    for looks in explanation.layers:
        weights = looks.weights[0, camera, 0]
        heavy = weights > (HEAVY_PLACE if looks.grid is None else HEAVY_CELL) * weights.max()
        points.append(looks.places[0, camera, 0][heavy] * canvas)
    spots = torch.cat(points)
    spots = spots if len(spots) else torch.tensor([[width / 2, height / 2]])
    low, high = spots.amin(0) - ZOOM_MARGIN, spots.amax(0) + ZOOM_MARGIN
    least = max(width / 4, float(high[0] - low[0]), float(high[1] - low[1]) / PANEL_SHAPE)
    wide = min(least, width, height / PANEL_SHAPE)
    middle = (low + high) / 2
    left = min(max(float(middle[0]) - wide / 2, 0), width - wide)
    top = min(max(float(middle[1]) - wide * PANEL_SHAPE / 2, 0), height - wide * PANEL_SHAPE)
    return round(left), round(top), int(wide), int(wide * PANEL_SHAPE)


def cut(view: View, window: Window, width: int) -> View:
    """The window of a view, drawn ``width`` pixels wide."""
    left, top, wide, high = window
    native = view.image.shape[1] / view.width  # pixels of the image per drawn pixel
    scale = width / wide
    intrinsics = view.intrinsics.clone()
    intrinsics[:2] *= native
    intrinsics[0, 2] -= left
    intrinsics[1, 2] -= top
    intrinsics[:2] *= scale
    return replace(
        view,
        image=view.image[top : top + high, left : left + wide],
        intrinsics=intrinsics,
        height=round(high * scale),
        width=width,
    )


def scene_of(scene: SceneBatch, window: Window) -> SceneBatch:
    """A scene whose canvas is the window, for places that are ``shifted`` to it."""
    left, top, wide, high = window
    return replace(scene, images=scene.images[..., top : top + high, left : left + wide])


def shifted(looks: Looks, scene: SceneBatch, window: Window) -> Looks:
    """Looks as fractions of a window of the canvas; a grid is sampled anew in it."""
    left, top, wide, high = window
    size = torch.tensor([scene.images.shape[-1], scene.images.shape[-2]])
    corner, extent = torch.tensor([left, top]), torch.tensor([wide, high])
    if looks.grid is None:
        return Looks((looks.places * size - corner) / extent, looks.weights)
    canvas = (scene.images.shape[-2], scene.images.shape[-1])
    heats = torch.stack(
        [heat_map(looks, view, canvas)[top : top + high, left : left + wide]
         for view in range(looks.weights.shape[1])]
    )  # fmt: skip
    weights = heats.flatten(1)[None, :, None]
    places = weights.new_zeros(*weights.shape, 2)
    return Looks(places, weights, (high, wide))
