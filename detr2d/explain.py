"""Why a detector put a box there: one detection, and where its query looked, layer by layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import ImageDraw, ImageFont
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from detr2d.looks import Looks, LookTrace
from detr2d.structures import Detections, Predictions
from detr2d.visualize import draw_detections, to_picture, to_tensor

# Anchors of the heat colours, dark to bright at rising weight, readable by every colour vision.
HEAT = ((30, 10, 70), (150, 30, 110), (235, 90, 50), (255, 185, 40), (255, 250, 190))
PANEL_WIDTH = 560  # pixels that a panel has at least
Postprocess = Callable[[Predictions], list[Detections]]


@dataclass(frozen=True)
class Explanation:
    """One detection of the first image or scene of a batch, and the looks of its query.

    found: the detection, N = 1; layers: looks of that query (Q = 1) in each decoder layer;
    predictions: all that the model said.
    """

    found: Detections
    layers: tuple[Looks, ...]
    predictions: Predictions


def explain(
    model: nn.Module,
    postprocess: Postprocess,
    batch: Any,
    *,
    box: int = 0,
    query: int | None = None,
) -> Explanation:
    """Explain the ``box``-th best detection of a batch of one, or the best of ``query``.

    The model must be in evaluation mode. Raises ValueError if there is no such detection or the
    model cannot tell where it looks.
    """
    with torch.inference_mode():
        predictions = model(batch)
        found = postprocess(predictions)[0]
        found = found.select(found.scores.argsort(descending=True, stable=True))
        rows = torch.arange(len(found), device=found.scores.device)
        if query is not None:
            rows = rows[found.queries == query][:1]
            if not len(rows):
                raise ValueError(f"query {query} is behind none of the {len(found)} detections")
        elif not 0 <= box < len(found):
            raise ValueError(f"no box {box}: there are {len(found)} detections")
        else:
            rows = rows[box : box + 1]
        one = found.select(rows)
        with LookTrace(query=int(one.queries[0])).watching(model) as trace:
            model(batch)
    return Explanation(one.to("cpu"), tuple(looks.to("cpu") for looks in trace.layers), predictions)


def heat_map(looks: Looks, view: int, canvas: tuple[int, int]) -> Tensor:
    """Weights of dense looks of one query in a view as an image (H, W) of the canvas, in [0, 1].

    The mean weight over all views and what lies below it is 0, the largest weight 1, so that a
    query that looks everywhere alike does not paint the whole image.
    """
    if looks.grid is None:
        raise ValueError("only looks over a grid make a heat map")
    weights = looks.weights[0, view, 0].view(1, 1, *looks.grid)
    smooth = F.interpolate(weights, size=canvas, mode="bilinear", align_corners=False)[0, 0]
    least, most = looks.weights[0, :, 0].mean(), looks.weights[0, :, 0].amax()
    span = torch.maximum(most - least, 1e-3 * most).clamp(min=1e-12)  # not rounding errors
    return ((smooth - least) / span).clamp(0, 1)


def heat_colors(heat: Tensor) -> Tensor:
    """Colours (3, H, W) float in [0, 255] of a heat map (H, W) in [0, 1]."""
    anchors = torch.tensor(HEAT, dtype=torch.float32)
    place = heat.clamp(0, 1) * (len(HEAT) - 1)
    lower = place.floor().clamp(max=len(HEAT) - 2).long()
    fraction = (place - lower).unsqueeze(-1)
    return torch.lerp(anchors[lower], anchors[lower + 1], fraction).permute(2, 0, 1)


def lay_heat(image: Tensor, heat: Tensor) -> Tensor:
    """An image (3, H, W) uint8, grey and dimmed, under a heat map (H, W) in [0, 1]."""
    grey = 0.75 * image.float().mean(0, keepdim=True)
    opacity = 0.85 * heat.clamp(0, 1).sqrt()
    return torch.lerp(grey.expand(3, -1, -1), heat_colors(heat), opacity).round().byte()


def draw_dots(image: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    """Places (P, 2) in pixels on a dimmed image (3, H, W) uint8, larger with more weight."""
    picture = to_picture((0.7 * image.float()).byte())
    draw = ImageDraw.Draw(picture)
    share = weights / weights.max().clamp(min=1e-12)
    colors = heat_colors(0.4 + 0.6 * share.view(1, -1))[:, 0].T.round().int().tolist()
    unit = max(2.0, min(picture.size) / 70)
    for index in share.argsort().tolist():
        x, y = pixels[index].tolist()
        radius = unit * (0.4 + 0.6 * float(share[index].sqrt()))
        area = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(area, fill=tuple(colors[index]), outline=(0, 0, 0))
    return to_tensor(picture)


def draw_image_explanation(
    image: Tensor, explanation: Explanation, classes: Sequence[str], canvas: tuple[int, int]
) -> Tensor:
    """A panel per decoder layer, in rows of three: the image (3, H, W) uint8 under the looks.

    The image is the valid, top-left area of the ``canvas``; small ones are enlarged. A cross marks
    the reference point that entered the layer, where a system has one, a line the way to there.
    Returns (3, H', W').
    """
    zoom = max(1.0, PANEL_WIDTH / image.shape[-1])
    height, width = (round(zoom * side) for side in image.shape[-2:])
    canvas = (round(zoom * canvas[0]), round(zoom * canvas[1]))
    image = resize(image, [height, width], antialias=True)
    found = replace(explanation.found, masks=None)  # a mask would hide where the query looked
    panels = []
    for number, looks in enumerate(explanation.layers, start=1):
        weights = looks.weights[0, 0, 0]
        if looks.grid is not None:
            panel = lay_heat(image, heat_map(looks, 0, canvas)[:height, :width])
        else:
            pixels = looks.places[0, 0, 0] * torch.tensor([canvas[1], canvas[0]])
            panel = draw_dots(image, pixels, weights)
        panel = draw_detections(panel, found, classes)
        panel = draw_way(panel, reference_pixels(explanation, (height, width))[:number])
        panels.append(write_caption(panel, f"layer {number}"))
    return in_rows(panels, 3)


def reference_pixels(explanation: Explanation, size: tuple[int, int]) -> list[list[float]]:
    """(x, y) of the query's reference point in an image of ``size`` before each layer and after.

    Empty for systems that have no such points.
    """
    references = explanation.predictions.references
    if references is None:
        return []
    points = references[:, 0, explanation.found.queries[0]].cpu()  # (L + 1, 2)
    return (points * torch.tensor([size[1], size[0]])).tolist()


def draw_way(panel: Tensor, points: Sequence[Sequence[float]]) -> Tensor:
    """A panel (3, H, W) with a line through points (x, y) in pixels and a cross at the last."""
    if not points:
        return panel
    picture = to_picture(panel)
    draw = ImageDraw.Draw(picture)
    arm, line = max(4.0, min(picture.size) / 45), max(1, round(min(picture.size) / 240))
    x, y = points[-1]
    cross = [((x - arm, y), (x + arm, y)), ((x, y - arm), (x, y + arm))]
    way = [(tuple(a), tuple(b)) for a, b in itertools.pairwise(points)]
    for color, width in (((0, 0, 0), line + 2), ((255, 255, 255), line)):
        for ends in [*way, *cross]:
            draw.line(ends, fill=color, width=width)
    return to_tensor(picture)


def write_caption(panel: Tensor, text: str) -> Tensor:
    """A panel (3, H, W) with words in its lower left corner."""
    picture = to_picture(panel)
    draw = ImageDraw.Draw(picture, "RGBA")
    font = ImageFont.load_default(size=max(11, min(picture.size) // 28))
    left, top, right, bottom = draw.textbbox((8, picture.height - 8), text, font=font, anchor="ls")
    draw.rectangle((left - 4, top - 4, right + 4, bottom + 4), fill=(0, 0, 0, 170))
    draw.text((8, picture.height - 8), text, font=font, anchor="ls", fill=(255, 255, 255))
    return to_tensor(picture)


def in_rows(panels: Sequence[Tensor], columns: int, gap: int = 6) -> Tensor:
    """Panels (3, H, W) of one size side by side in rows, with white gaps."""
    height, width = panels[0].shape[-2:]
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    size = (3, rows * (height + gap) - gap, columns * (width + gap) - gap)
    joined = panels[0].new_full(size, 255)
    for index, panel in enumerate(panels):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        joined[:, top : top + height, left : left + width] = panel
    return joined
