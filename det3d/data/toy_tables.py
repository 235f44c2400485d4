"""The 13 nuScenes tables of a toy world, from the records of its key frames."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from det3d.data.toy_frames import map_name
from det3d.data.toy_records import AnnotationRecord, FrameRecord, log_name, make_token
from det3d.data.toy_rig import LIDAR_CHANNEL, SENSORS, yaw_to_quaternion
from det3d.data.toy_scene import DESCRIPTIONS

Row = dict[str, Any]
Tables = dict[str, list[Row]]

CATEGORIES = {
    "human.pedestrian.adult": "A grown person.",
    "human.pedestrian.child": "A child.",
    "human.pedestrian.wheelchair": "A person in a wheelchair.",
    "human.pedestrian.stroller": "A stroller and who is in it.",
    "human.pedestrian.personal_mobility": "A person on a scooter, skateboard or the like.",
    "human.pedestrian.police_officer": "A police officer on foot.",
    "human.pedestrian.construction_worker": "A construction worker.",
    "animal": "Any animal.",
    "vehicle.car": "A vehicle for personal use.",
    "vehicle.motorcycle": "A motorised two-wheeler.",
    "vehicle.bicycle": "A bicycle.",
    "vehicle.bus.bendy": "One section of a bendy bus.",
    "vehicle.bus.rigid": "A rigid bus.",
    "vehicle.truck": "A vehicle for cargo, pickups included.",
    "vehicle.construction": "A construction machine.",
    "vehicle.emergency.ambulance": "An ambulance.",
    "vehicle.emergency.police": "A police vehicle.",
    "vehicle.trailer": "A trailer of any kind.",
    "movable_object.barrier": "A temporary road barrier.",
    "movable_object.trafficcone": "A traffic cone.",
    "movable_object.pushable_pullable": "Something that people push or pull.",
    "movable_object.debris": "Something lost on the road.",
    "static_object.bicycle_rack": "A rack for bicycles.",
}
ATTRIBUTES = {
    "vehicle.moving": "The vehicle moves.",
    "vehicle.stopped": "The vehicle stands and is about to move on.",
    "vehicle.parked": "The vehicle stands for long.",
    "cycle.with_rider": "Somebody rides it.",
    "cycle.without_rider": "Nobody rides it.",
    "pedestrian.sitting_lying_down": "The person sits or lies.",
    "pedestrian.standing": "The person stands.",
    "pedestrian.moving": "The person moves.",
}
VISIBILITIES = ("v0-40", "v40-60", "v60-80", "v80-100")


def make_tables(frames: list[FrameRecord], image_size: tuple[int, int]) -> Tables:
    """All tables by name; frames must be complete and in the order of scenes and time."""
    tables: Tables = {
        "category": [_named(name, about) for name, about in CATEGORIES.items()],
        "attribute": [_named(name, about) for name, about in ATTRIBUTES.items()],
        "visibility": [
            {"token": str(k), "level": level, "description": f"{level[1:]} % of the pixels are visible"}
            for k, level in enumerate(VISIBILITIES, start=1)
        ],
        "sensor": [
            {"token": _sensor_token(s.channel), "channel": s.channel,
             "modality": "lidar" if s.channel == LIDAR_CHANNEL else "camera"}
            for s in SENSORS
        ],
    }  # fmt: skip
    for name in ("log", "map", "scene", "sample", "sample_data", "ego_pose", "calibrated_sensor",
                 "instance", "sample_annotation"):  # fmt: skip
        tables[name] = []
    for _, group in groupby(frames, key=lambda frame: frame.scene):
        _add_scene(tables, list(group), image_size)
    return tables


def _named(name: str, about: str) -> Row:
    return {"token": make_token("toy", name), "name": name, "description": about}


def _sensor_token(channel: str) -> str:
    return make_token("toy", channel)


def _add_scene(tables: Tables, frames: list[FrameRecord], image_size: tuple[int, int]) -> None:
    plan = frames[0].plan
    key = (plan.seed, plan.name)
    log, scene = make_token(*key, "log"), make_token(*key, "scene")
    tables["log"].append({
        "token": log, "logfile": log_name(plan), "vehicle": "toy",
        "date_captured": "2018-06-26", "location": "toy-town",
    })  # fmt: skip
    tables["map"].append({
        "token": make_token(*key, "map"), "category": "semantic_prior",
        "filename": map_name(plan), "log_tokens": [log],
    })  # fmt: skip
    for sensor in SENSORS:
        camera = sensor.channel != LIDAR_CHANNEL
        tables["calibrated_sensor"].append({
            "token": make_token(*key, "calibrated", sensor.channel),
            "sensor_token": _sensor_token(sensor.channel),
            "translation": list(sensor.translation), "rotation": list(sensor.rotation),
            "camera_intrinsic": sensor.intrinsics(image_size).tolist() if camera else [],
        })  # fmt: skip
    samples = [make_token(*key, "sample", frame.frame) for frame in frames]
    tables["scene"].append({
        "token": scene, "log_token": log, "nbr_samples": len(frames), "name": plan.name,
        "first_sample_token": samples[0], "last_sample_token": samples[-1],
        "description": DESCRIPTIONS[plan.kind],
    })  # fmt: skip
    rows = [
        {"token": token, "timestamp": frame.timestamp, "scene_token": scene}
        for token, frame in zip(samples, frames, strict=True)
    ]
    tables["sample"] += _linked(rows)
    for slot in range(len(SENSORS)):
        _add_channel(tables, frames, samples, slot, image_size)
    _add_annotations(tables, frames, samples)


def _linked(rows: Iterable[Row]) -> list[Row]:
    """The same rows with ``prev`` and ``next`` tokens, empty at the ends."""
    rows = list(rows)
    tokens = ["", *(row["token"] for row in rows), ""]
    return [
        {**row, "prev": tokens[k], "next": tokens[k + 2]} for k, row in enumerate(rows)
    ]


def _add_channel(tables: Tables, frames: list[FrameRecord], samples: list[str], slot: int,
                 image_size: tuple[int, int]) -> None:  # fmt: skip
    plan, channel = frames[0].plan, SENSORS[slot].channel
    camera = channel != LIDAR_CHANNEL
    rows = []
    for frame, sample in zip(frames, samples, strict=True):
        record = frame.sensors[slot]
        token = make_token(plan.seed, plan.name, channel, frame.frame)
        x, y, yaw = record.pose
        tables["ego_pose"].append({
            "token": token, "timestamp": record.timestamp, "translation": [round(x, 5), round(y, 5), 0.0],
            "rotation": [round(q, 9) for q in yaw_to_quaternion(yaw)],
        })  # fmt: skip
        rows.append({
            "token": token, "sample_token": sample, "ego_pose_token": token,
            "calibrated_sensor_token": make_token(plan.seed, plan.name, "calibrated", channel),
            "timestamp": record.timestamp, "fileformat": "jpg" if camera else "pcd",
            "is_key_frame": True, "height": image_size[0] if camera else 0,
            "width": image_size[1] if camera else 0, "filename": record.filename,
        })  # fmt: skip
    tables["sample_data"] += _linked(rows)


def _add_annotations(tables: Tables, frames: list[FrameRecord], samples: list[str]) -> None:
    """Annotations by instance; consecutive ones are linked, also across a time out of range."""
    plan = frames[0].plan
    tracks: dict[int, list[tuple[str, int, AnnotationRecord]]] = {}
    for sample, frame in zip(samples, frames, strict=True):
        for record in frame.annotations:
            tracks.setdefault(record.actor, []).append((sample, frame.frame, record))
    for actor in sorted(tracks):
        instance = make_token(plan.seed, plan.name, "instance", actor)
        rows = _linked(
            _annotation(make_token(instance, frame), sample, instance, record)
            for sample, frame, record in tracks[actor]
        )
        tables["sample_annotation"] += rows
        tables["instance"].append({
            "token": instance, "category_token": make_token("toy", tracks[actor][0][2].category),
            "nbr_annotations": len(rows), "first_annotation_token": rows[0]["token"],
            "last_annotation_token": rows[-1]["token"],
        })  # fmt: skip


def _annotation(token: str, sample: str, instance: str, record: AnnotationRecord) -> Row:
    x, y, z, yaw = record.pose
    length, width, height = record.size
    return {
        "token": token,
        "sample_token": sample,
        "instance_token": instance,
        "visibility_token": str(record.visibility),
        "attribute_tokens": [make_token("toy", record.attribute)] if record.attribute else [],
        "translation": [round(x, 4), round(y, 4), round(z, 4)],
        "size": [round(width, 4), round(length, 4), round(height, 4)],
        "rotation": [round(q, 9) for q in yaw_to_quaternion(yaw)],
        "num_lidar_pts": record.num_lidar_points,
        "num_radar_pts": 0,
    }
