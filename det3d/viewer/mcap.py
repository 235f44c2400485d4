"""Result files as MCAP for robotics viewers (Foxglove, Lichtblick, Rerun): extra ``viz``.

Transforms global -> ref -> cameras, compressed images with their calibration, lidar, and detections
and ground truth as cubes in ``ref``, at the time of each frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from det3d.results.format import Camera, Frame, Objects, Results
from det3d.results.geometry import Array, box_rotations, invert_transform, quaternions
from det3d.results.points import read_points
from det3d.viewer.page import embedded_image
from det3d.visualization.palette import class_color
from detr2d.data.paths import below


def write_mcap(results: Results, path: Path, *, camera_width: int, min_score: float) -> int:
    """Write the file and return its size in bytes.

    Images are at most ``camera_width`` pixels wide; detections below ``min_score`` are left out.
    Raises ImportError with what to install if the SDK is missing.
    """
    try:
        import foxglove
    except ImportError as error:
        raise ImportError(
            "writing .mcap needs foxglove-sdk: pip install 'detr2d-det3d[viz]'"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    context = foxglove.Context()
    channels: dict[str, Any] = {}
    with foxglove.open_mcap(path, allow_overwrite=True, context=context):
        for frame in results.frames:
            for topic, kind, message in frame_messages(results, frame, camera_width, min_score):
                if topic not in channels:
                    channels[topic] = kind(topic, context=context)
                channels[topic].log(message, log_time=round(frame.time * 1e9))
    return path.stat().st_size


def frame_messages(
    results: Results, frame: Frame, camera_width: int, min_score: float
) -> Iterator[tuple[str, Any, Any]]:
    """Topic, kind of channel and message of everything in one frame."""
    from foxglove import channels, messages

    now = messages.Timestamp(*divmod(round(frame.time * 1e9), 10**9))
    poses = {"ref": ("global", frame.global_from_ref)} | {
        camera.name: ("ref", invert_transform(camera.camera_from_ref)) for camera in frame.cameras
    }
    for child, (parent, pose) in poses.items():
        turn, place = rotation_of(pose[:3, :3]), pose[:3, 3].tolist()
        yield "/tf", channels.FrameTransformChannel, messages.FrameTransform(
            timestamp=now, parent_frame_id=parent, child_frame_id=child,
            translation=messages.Vector3(**dict(zip("xyz", place, strict=True))), rotation=turn,
        )  # fmt: skip
    for camera in frame.cameras:
        yield from camera_messages(results.image_root, camera, camera_width, now)
    if frame.lidar is not None:
        where = f"frame {frame.token}"
        path = below(results.image_root, frame.lidar, where)
        xyz = np.ascontiguousarray(read_points(path, frame.lidar_columns, where)[:, :3])
        yield "/lidar", channels.PointCloudChannel, point_cloud(xyz, now)
    found = frame.detections
    if found is not None and found.scores is not None:
        found = found.select(found.scores >= min_score)
    for topic, objects, opacity in (
        ("/detections", found, 0.5),
        ("/ground_truth", frame.ground_truth, 0.2),
    ):
        if objects is not None:
            scene = scene_update(results, objects, topic, opacity, now)
            yield topic, channels.SceneUpdateChannel, scene


def rotation_of(rotation: Array) -> Any:
    """A rotation matrix (3, 3) as a quaternion message."""
    from foxglove import messages

    w, x, y, z = quaternions(rotation[None])[0].tolist()
    return messages.Quaternion(x=x, y=y, z=z, w=w)


def camera_messages(
    root: Path, camera: Camera, width: int, now: Any
) -> Iterator[tuple[str, Any, Any]]:
    """The image of a camera, at most ``width`` pixels wide, and its calibration at that size."""
    from foxglove import channels, messages

    _, content = embedded_image(root, camera, width)
    scale = min(1.0, width / camera.width)
    intrinsics = np.diag([scale, scale, 1.0]) @ camera.intrinsics
    projection = np.hstack([intrinsics, np.zeros((3, 1))])
    topic = f"/cameras/{camera.name}"
    yield f"{topic}/image", channels.CompressedImageChannel, messages.CompressedImage(
        timestamp=now, frame_id=camera.name, data=content, format="jpeg"
    )  # fmt: skip
    yield f"{topic}/calibration", channels.CameraCalibrationChannel, messages.CameraCalibration(
        timestamp=now, frame_id=camera.name, width=round(scale * camera.width),
        height=round(scale * camera.height), K=intrinsics.ravel().tolist(),
        P=projection.ravel().tolist(), R=np.eye(3).ravel().tolist(),
    )  # fmt: skip


def point_cloud(points: Array, now: Any) -> Any:
    """Points (N, 3) float32 in ref."""
    from foxglove import messages

    number = messages.PackedElementFieldNumericType.Float32
    fields = [
        messages.PackedElementField(name=name, offset=4 * i, type=number)
        for i, name in enumerate("xyz")
    ]
    return messages.PointCloud(
        timestamp=now, frame_id="ref", point_stride=12, fields=fields, data=points.tobytes()
    )


def scene_update(results: Results, objects: Objects, name: str, opacity: float, now: Any) -> Any:
    """Objects as one entity of cubes that replaces the last frame's."""
    from foxglove import messages

    cubes = []
    turns = box_rotations(np.eye(4), objects.boxes[:, 6])
    for box, label, turn in zip(
        objects.boxes.tolist(), objects.labels.tolist(), turns, strict=True
    ):
        red, green, blue = (channel / 255 for channel in class_color(label))
        cubes.append(
            messages.CubePrimitive(
                pose=messages.Pose(
                    position=messages.Vector3(x=box[0], y=box[1], z=box[2]),
                    orientation=rotation_of(turn),
                ),
                size=messages.Vector3(x=box[3], y=box[4], z=box[5]),
                color=messages.Color(r=red, g=green, b=blue, a=opacity),
            )
        )
    entity = messages.SceneEntity(timestamp=now, frame_id="ref", id=name, cubes=cubes)
    return messages.SceneUpdate(entities=[entity])
