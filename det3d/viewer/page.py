"""One self-contained HTML page from a result file: cameras, the view from above, time.

Everything is in the file: it opens offline and asks for nothing. ``static/`` holds the page's
markup, style and script, which are put together here with the data and the images.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from det3d.results.format import Camera, Frame, Objects, Results
from det3d.results.geometry import Array, camera_azimuth, invert_transform
from det3d.results.points import read_points
from det3d.visualization.layout import camera_rows
from det3d.visualization.palette import class_color
from detr2d.data.image_headers import decode_rgb, open_image
from detr2d.data.paths import below

SCRIPTS = ("geometry.js", "matching.js", "views.js", "details.js", "data.js", "main.js")
JPEG_QUALITY = 82


@dataclass(frozen=True, kw_only=True)
class PageStyle:
    """What goes into a page, and how large."""

    camera_width: int = 448
    """Width of the embedded images in pixels; smaller ones are embedded as they are."""
    min_score: float = 0.05
    """Detections below this score are left out."""
    score: float = 0.3
    """Score threshold that the page starts with."""
    lidar_points: int = 4000
    """Lidar points a frame, evenly picked; 0 for none."""
    speed: float = 1.0
    """Speed of playing; 1 shows two frames a second."""
    title: str = "Results"
    """Heading of the page."""


def write_page(results: Results, path: Path, style: PageStyle | None = None) -> int:
    """Write the page and return its size in bytes. Raises FileNotFoundError for missing images."""
    style = style or PageStyle()
    slots = {name: slot for slot, name in enumerate(camera_names(results))}
    page = Template(read_static("page.html")).substitute(
        title=html.escape(style.title),
        style=read_static("page.css"),
        script="\n".join(read_static(name) for name in SCRIPTS),
        data=embedded_json(page_data(results, slots, style)),
        images="\n".join(embedded_files(results, slots, style)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_bytes(page.encode())


def read_static(name: str) -> str:
    """The text of one of the page's parts."""
    return (files("det3d.viewer") / "static" / name).read_text(encoding="utf-8")


def embedded_json(value: Any) -> str:
    """JSON that cannot end the script element around it."""
    return json.dumps(value, separators=(",", ":")).replace("</", "<\\/")


def camera_names(results: Results) -> tuple[str, ...]:
    """The names of all cameras of all frames, in order of appearance."""
    return tuple(dict.fromkeys(c.name for frame in results.frames for c in frame.cameras))


def page_data(results: Results, slots: dict[str, int], style: PageStyle) -> dict[str, Any]:
    """The numbers of the page; images and points are embedded apart."""
    return {
        "title": style.title,
        "source": results.source,
        "score": style.score,
        "speed": style.speed,
        "forward": results.forward,
        "classes": [
            {"name": c.name, "range": c.range, "color": "#{:02x}{:02x}{:02x}".format(*color)}
            for c, color in zip(
                results.classes, map(class_color, range(len(results.classes))), strict=True
            )
        ],
        "rows": mosaic_rows(results),
        "frames": [frame_data(frame, slots, style) for frame in results.frames],
    }


def mosaic_rows(results: Results) -> list[list[str]]:
    """Names of the cameras row by row, as they look."""
    first = {c.name: c for frame in reversed(results.frames) for c in frame.cameras}
    names = camera_names(results)
    azimuths = [camera_azimuth(first[name].camera_from_ref, results.forward) for name in names]
    return [[names[i] for i in row] for row in camera_rows(azimuths)]


def frame_data(frame: Frame, slots: dict[str, int], style: PageStyle) -> dict[str, Any]:
    """One frame as the page's script reads it."""
    found = frame.detections
    if found is not None and found.scores is not None:
        found = found.select(found.scores >= style.min_score)
    return {
        "token": frame.token,
        "scene": frame.scene,
        "time": frame.time,
        "global_from_ref": frame.global_from_ref.tolist(),
        "ref_from_ego": invert_transform(frame.ego_from_ref).tolist(),
        "cameras": [
            {
                "name": camera.name,
                "title": camera.name.removeprefix("CAM_").replace("_", " ").lower(),
                "slot": slots[camera.name],
                "width": camera.width,
                "height": camera.height,
                "intrinsics": camera.intrinsics.tolist(),
                "camera_from_ref": camera.camera_from_ref.tolist(),
            }
            for camera in frame.cameras
        ],
        "detections": object_data(found),
        "ground_truth": object_data(frame.ground_truth),
    }


def object_data(objects: Objects | None) -> dict[str, Any] | None:
    """Objects with null for unknown velocities."""
    if objects is None:
        return None
    boxes = [[None if v != v else v for v in box] for box in objects.boxes.round(4).tolist()]
    content: dict[str, Any] = {"boxes": boxes, "labels": objects.labels.tolist()}
    if objects.scores is not None:
        content["scores"] = objects.scores.round(4).tolist()
    if objects.tracks is not None:
        content["tracks"] = objects.tracks
    return content


def embedded_files(results: Results, slots: dict[str, int], style: PageStyle) -> Iterator[str]:
    """Script elements that hold images and lidar points in base64 and are read when needed."""
    for number, frame in enumerate(results.frames):
        for camera in frame.cameras:
            kind, content = embedded_image(results.image_root, camera, style.camera_width)
            where = f'id="image-{number}-{slots[camera.name]}" data-type="{kind}"'
            yield f'<script type="text/plain" {where}>{base64.b64encode(content).decode()}</script>'
        if frame.lidar is not None and style.lidar_points:
            path = below(results.image_root, frame.lidar, f"frame {frame.token}")
            points = embedded_points(path, frame.lidar_columns, style.lidar_points)
            text = base64.b64encode(points.tobytes()).decode()
            yield f'<script type="text/plain" id="lidar-{number}">{text}</script>'


def embedded_image(root: Path, camera: Camera, width: int) -> tuple[str, bytes]:
    """Media type and bytes of a camera's image, at most ``width`` pixels wide."""
    path = below(root, camera.image, f"camera {camera.name}")
    if not path.is_file():
        raise FileNotFoundError(
            f"image {path} of camera {camera.name} is missing; --root names another folder"
        )
    complaint, content = f"{path} is no readable image", path.read_bytes()
    image = open_image(content, complaint)
    if camera.width <= width and image.format == "JPEG":
        return "image/jpeg", content
    small = Image.fromarray(decode_rgb(image, complaint))
    if camera.width > width:
        size = (width, max(1, round(camera.height * width / camera.width)))
        small = small.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "image/jpeg", buffer.getvalue()


def embedded_points(path: Path, columns: int, count: int) -> Array:
    """At most ``count`` lidar points as int16 centimetres (N, 3), those of the vehicle left out."""
    if not path.is_file():
        raise FileNotFoundError(f"lidar file {path} is missing; --lidar-points 0 leaves it out")
    xyz = read_points(path, columns, "lidar")[:, :3]
    distance = np.hypot(xyz[:, 0], xyz[:, 1])
    kept = xyz[(distance > 2.5) & (distance < 120)]
    chosen = np.linspace(0, len(kept) - 1, min(count, len(kept))).astype(int)
    return np.rint(100 * kept[chosen]).clip(-32768, 32767).astype("<i2")


def choose_frames(
    results: Results, scenes: Sequence[str], count: int | None, root: Path | None
) -> Results:
    """Results of some scenes, their first ``count`` frames, with images below another root.

    Raises ValueError for an unknown scene or a count below one.
    """
    known = dict.fromkeys(frame.scene for frame in results.frames)
    unknown = [scene for scene in scenes if scene not in known]
    if unknown:
        raise ValueError(f"no scene {', '.join(unknown)}; there are {', '.join(known)}")
    if count is not None and count < 1:
        raise ValueError(f"the number of frames must be at least 1, got {count}")
    kept = [frame for frame in results.frames if not scenes or frame.scene in scenes]
    return replace(results, frames=tuple(kept[:count]), image_root=root or results.image_root)
