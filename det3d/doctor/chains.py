"""The chains of a database: scenes of samples, sensors over time, instances of annotations."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from det3d.data.nuscenes_tables import LIDAR
from det3d.doctor.tables import Tables
from detr2d.doctor.findings import Finding, gather
from detr2d.doctor.rows import Row

LATEST = 500_000  # microseconds that a sensor's key frame may lie away from its sample
POSE_OFF = 100_000  # microseconds that an ego pose may lie away from its file
CENTURY = (946_684_800_000_000, 4_102_444_800_000_000)  # microseconds of 2000-01-01, 2100-01-01
FASTEST = 70.0  # metres per second of an ego vehicle
JUMP = 60.0  # metres per second of an object between two key frames


def links(tables: Tables) -> Iterable[Finding]:
    """Neighbours that do not agree on each other, run backwards in time, or change the owner."""
    owners = {"sample": "scene_token", "sample_annotation": "instance_token", "sample_data": None}
    for table, owner in owners.items():
        rows, broken, backwards, crossing = tables.by_token[table], [], [], []
        for row in tables.rows[table]:
            after, before = rows.get(row["next"]), rows.get(row["prev"])
            if after is not None and after["prev"] != row["token"]:
                broken.append(f"{row['token']}: next says its prev is {after['prev'] or 'none'}")
            if before is not None and before["next"] != row["token"]:
                broken.append(f"{row['token']}: prev says its next is {before['next'] or 'none'}")
            if after is not None and time_of(tables, after) <= time_of(tables, row):
                backwards.append(row["token"])
            if owner and after is not None and after[owner] != row[owner]:
                crossing.append(row["token"])
        where = tables.file(table)
        yield from gather(
            "error", "broken-chain", where, broken, "rows whose neighbours do not agree",
            "next of a row and prev of its neighbour are each other's token; velocities need them",
        )  # fmt: skip
        yield from gather(
            "error", "time-order", where, backwards, "rows that are not earlier than their next",
            "order the chain by time",
        )  # fmt: skip
        yield from gather(
            "error", "broken-chain", where, crossing, f"rows whose next has another {owner}",
            "a chain stays within one scene or instance",
        )  # fmt: skip


def time_of(tables: Tables, row: Row) -> int:
    """The time of a row: its own, or that of its sample."""
    if "timestamp" in row:
        return int(row["timestamp"])
    sample = tables.by_token["sample"].get(row["sample_token"])
    return int(sample["timestamp"]) if sample else 0


def chain_ends(tables: Tables) -> Iterable[Finding]:
    """Scenes and instances whose first, last or number is not that of their chain."""
    for owner, first, last, number, member, key in (
        ("scene", "first_sample_token", "last_sample_token", "nbr_samples", "sample",
         "scene_token"),
        ("instance", "first_annotation_token", "last_annotation_token", "nbr_annotations",
         "sample_annotation", "instance_token"),
    ):  # fmt: skip
        members: dict[str, list[Row]] = defaultdict(list)
        for row in tables.rows[member]:
            members[row[key]].append(row)
        broken = []
        for row in tables.rows[owner]:
            complaint = end_fault(
                members[row["token"]], row[first], row[last], row[number],
                tables.by_token[member],
            )  # fmt: skip
            if complaint:
                broken.append(f"{row.get('name', row['token'])}: {complaint}")
        yield from gather(
            "error", "broken-chain", tables.file(owner), broken,
            f"rows of {owner} that do not fit their chain of {member}",
            f"{first}, {last}, {number} and the neighbours must tell the same chain",
        )  # fmt: skip


def end_fault(
    members: Sequence[Row], first: str, last: str, number: int, rows: Mapping[str, Row]
) -> str | None:
    """What is wrong with the chain of one owner, None if nothing is."""
    if not members:
        return "nothing belongs to it"
    if number != len(members):
        return f"{number} are said to belong to it, {len(members)} do"
    starts = [row["token"] for row in members if not row["prev"]]
    ends = [row["token"] for row in members if not row["next"]]
    if starts != [first] or ends != [last]:
        return f"{len(starts)} chains start and {len(ends)} end, expected one from first to last"
    seen, token = set(), first
    while token and token not in seen and token in rows:
        seen.add(token)
        token = rows[token]["next"]
    if len(seen) != len(members):
        return f"the chain reaches {len(seen)} of {len(members)}"
    return None


def sample_sensors(tables: Tables) -> Iterable[Finding]:
    """Samples without lidar or with a camera too few, and sensors twice in a sample."""
    channels: dict[str, list[str]] = defaultdict(list)
    for data, sensor in tables.key_frames:
        channels[data["sample_token"]].append(sensor["channel"])
    samples = [row["token"] for row in tables.rows["sample"]]
    where = tables.file("sample_data")
    yield from gather(
        "error", "no-lidar", where, [s for s in samples if LIDAR not in channels[s]],
        f"samples without a key frame of {LIDAR}", "it sets the frame of the boxes",
    )  # fmt: skip
    double = [
        f"{sample}: {channel}"
        for sample, names in channels.items()
        for channel in set(names)
        if names.count(channel) > 1
    ]
    yield from gather(
        "error", "duplicate-key-frame", where, double, "sensors with two key frames in a sample",
        "only one of them can be read; mark the others is_key_frame = false",
    )  # fmt: skip
    usual = {s["channel"] for _, s in tables.camera_frames}
    lacking = [
        f"{sample}: {', '.join(sorted(usual - set(channels[sample])))}"
        for sample in samples
        if usual - set(channels[sample])
    ]
    everywhere = len(lacking) == len(samples)
    yield from gather(
        "note" if everywhere else "warning", "camera-missing", where, lacking,
        "samples that lack a camera that others have", "they are read with that camera absent",
    )  # fmt: skip
    if samples and not usual:
        said = "there is no key frame of any camera"
        yield Finding("error", "no-camera", str(where), said, "set modality and is_key_frame")


def times(tables: Tables) -> Iterable[Finding]:
    """Times in another unit than microseconds, and key frames far from their sample."""
    samples, where = tables.by_token["sample"], tables.file("sample_data")
    names = ("sample", "sample_data", "ego_pose")
    foreign = [f"{t}: {tables.rows[t][0]['timestamp']}" for t in names if in_other_unit(tables, t)]
    if foreign:
        yield from gather(
            "error", "time-unit", tables.folder, foreign,
            "tables whose timestamps are no microseconds since 1970 of this century",
            "seconds have 10 digits, milliseconds 13, microseconds 16, nanoseconds 19: velocities "
            "are metres by difference of timestamps / 1 000 000",
        )  # fmt: skip
        return
    late = [
        f"{sensor['channel']} of sample {data['sample_token']}: "
        f"{(data['timestamp'] - samples[data['sample_token']]['timestamp']) / 1e6:+.2f} s"
        for data, sensor in tables.key_frames
        if data["sample_token"] in samples
        and abs(data["timestamp"] - samples[data["sample_token"]]["timestamp"]) > LATEST
    ]
    yield from gather(
        "warning", "late-sensor", where, late,
        "key frames more than half a second off their sample",
        "is the clock of this sensor the same as of the others?",
    )  # fmt: skip


def pose_times(tables: Tables) -> Iterable[Finding]:
    """Key frames whose ego pose is of another time."""
    poses = tables.by_token["ego_pose"]
    off = [
        f"{sensor['channel']} of sample {data['sample_token']}: "
        f"{(poses[data['ego_pose_token']]['timestamp'] - data['timestamp']) / 1e6:+.2f} s"
        for data, sensor in tables.key_frames
        if data["ego_pose_token"] in poses
        and abs(poses[data["ego_pose_token"]]["timestamp"] - data["timestamp"]) > POSE_OFF
    ]
    yield from gather(
        "warning", "pose-time", tables.file("sample_data"), off,
        "key frames whose ego pose is of another time", "each file needs the pose of its own time",
    )  # fmt: skip


def in_other_unit(tables: Tables, table: str) -> bool:
    """Whether no time of a table lies in this century when it is read as microseconds."""
    times = [row["timestamp"] for row in tables.rows[table]]
    return bool(times) and not any(CENTURY[0] <= time < CENTURY[1] for time in times)


def motion(tables: Tables) -> Iterable[Finding]:
    """Ego vehicles and objects that jump."""
    samples, jumps = tables.by_token["sample"], []
    annotations = tables.by_token["sample_annotation"]
    for row in tables.rows["sample_annotation"]:
        after = annotations.get(row["next"])
        speed = speed_between(row, after, samples) if after is not None else 0.0
        if speed > JUMP:
            jumps.append(f"{row['token']}: {speed:.0f} m/s")
    yield from gather(
        "warning", "object-jump", tables.file("sample_annotation"), jumps,
        "objects that jump to their next annotation", "is it the same object, in the global frame?",
    )  # fmt: skip
    poses = tables.by_token["ego_pose"]
    scenes: dict[str, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for data in tables.lidar_frames:
        sample, pose = samples.get(data["sample_token"]), poses.get(data["ego_pose_token"])
        if sample is not None and pose is not None:
            place = np.array(pose["translation"], dtype=float)
            scenes[sample["scene_token"]].append((data["timestamp"], place))
    fast = []
    for scene, places in scenes.items():
        places.sort(key=lambda pair: pair[0])
        for (start, here), (end, there) in itertools.pairwise(places):
            speed = float(np.linalg.norm(there - here)) / max(1e-6 * (end - start), 1e-3)
            if speed > FASTEST:
                fast.append(f"scene {scene}: {speed:.0f} m/s")
    yield from gather(
        "warning", "ego-jump", tables.file("ego_pose"), fast, "ego poses that jump within a scene",
        "are these poses of one drive, in metres, in the global frame?",
    )  # fmt: skip


def speed_between(row: Row, after: Row, samples: Mapping[str, Row]) -> float:
    """Speed in m/s from one annotation to the next, 0 if a sample or the time is missing."""
    first, second = samples.get(row["sample_token"]), samples.get(after["sample_token"])
    if first is None or second is None or second["timestamp"] <= first["timestamp"]:
        return 0.0
    way = np.subtract(after["translation"][:2], row["translation"][:2])
    return float(np.hypot(*way)) / (1e-6 * (second["timestamp"] - first["timestamp"]))


def double_objects(tables: Tables) -> Iterable[Finding]:
    """Instances that stand twice in a sample, and boxes that two instances share."""
    keys: set[tuple[str, str]] = set()
    places: dict[tuple[object, ...], str] = {}
    twice, same = [], []
    for row in tables.rows["sample_annotation"]:
        key = (row["sample_token"], row["instance_token"])
        if key in keys:
            twice.append(f"instance {key[1]} in sample {key[0]}")
        keys.add(key)
        place = (row["sample_token"], tables.category_of(row), *row["translation"], *row["size"])
        if places.setdefault(place, row["instance_token"]) != row["instance_token"]:
            same.append(f"{row['token']} in sample {row['sample_token']}")
    where = tables.file("sample_annotation")
    yield from gather(
        "error", "duplicate-object", where, twice, "instances that stand twice in a sample",
        "an object has one box at a time",
    )  # fmt: skip
    yield from gather(
        "warning", "duplicate-object", where, same, "boxes that another object has too",
        "remove the copies: each counts as a miss",
    )  # fmt: skip
