from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from nuscenes.utils import splits

from det3d.data.toy_motion import footprint_corners
from det3d.data.toy_scene import build_scene, plan_split
from det3d.data.toy_traffic import ANNOTATION_RANGE, DETECTION_CLASSES, EGO_CENTRE, EGO_HALF

EVALUATION_RANGE = {
    "car": 50, "truck": 50, "bus": 50, "trailer": 50, "construction_vehicle": 50, "pedestrian": 40,
    "motorcycle": 40, "bicycle": 40, "traffic_cone": 30, "barrier": 30,
}  # fmt: skip


@lru_cache
def scenes_of(split, seed, count=None, num_frames=40):
    names = getattr(splits, split)[:count]
    return [build_scene(plan) for plan in plan_split(split, names, seed, num_frames)]


def distances(scene):
    """Metres between the ego and every actor, (A, F)."""
    poses = np.stack([actor.motion.poses(scene.times) for actor in scene.actors])
    return np.linalg.norm(poses[..., :2] - scene.ego.poses(scene.times)[..., :2], axis=-1)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_every_class_comes_within_evaluation_range_in_the_small_split(seed):
    found = {
        actor.name
        for scene in scenes_of("mini_val", seed)
        for actor, distance in zip(scene.actors, distances(scene), strict=True)
        if distance.min() < EVALUATION_RANGE[actor.name]
    }
    assert found == set(DETECTION_CLASSES)


@pytest.mark.parametrize("num_frames", [1, 3, 12])
def test_one_short_scene_has_every_class_for_any_seed(num_frames):
    for seed in range(100, 106):
        (scene,) = scenes_of("mini_val", seed, 1, num_frames)
        assert {actor.name for actor in scene.actors} == set(DETECTION_CLASSES)


def test_scenes_are_busy_long_tailed_and_sometimes_empty():
    counts, crowd, empty = Counter(), [], 0
    for scene in scenes_of("mini_train", 0):
        distance = distances(scene)
        crowd += (distance < 50).sum(0).tolist()
        empty += int((distance > ANNOTATION_RANGE).all(0).sum())
        for actor, row in zip(scene.actors, distance, strict=True):
            counts[actor.name] += int((row < 50).sum())
    share = {name: counts[name] / sum(counts.values()) for name in DETECTION_CLASSES}
    assert np.mean(crowd) >= 18
    assert 5 <= empty <= 60
    assert share["car"] + share["pedestrian"] > 0.5
    assert max(share["bus"], share["trailer"], share["construction_vehicle"]) < 0.06
    assert all(share[name] > 0 for name in DETECTION_CLASSES)


@pytest.mark.parametrize("index", range(5))
def test_nothing_ever_touches_anything(index):
    scene = scenes_of("mini_train", 0)[index]
    times = np.arange(0, scene.plan.duration, 0.11)
    ego = scene.ego.poses(times)
    ego[:, 0] += EGO_CENTRE * np.cos(ego[:, 2])
    ego[:, 1] += EGO_CENTRE * np.sin(ego[:, 2])
    poses = np.stack([ego, *(actor.motion.poses(times) for actor in scene.actors)])
    half = np.stack([EGO_HALF, *(actor.size[:2] / 2 for actor in scene.actors)])
    corners = footprint_corners(poses, half[:, None])  # (I, T, 4, 2)
    for i, j in zip(*np.triu_indices(len(poses), 1), strict=True):
        near = np.linalg.norm(poses[i, :, :2] - poses[j, :, :2], axis=1) < half[[i, j]].sum() * 1.5
        assert separated(corners[i, near], corners[j, near]).all(), (i, j)


def separated(first, second):
    """Tell which rectangles (T, 4, 2) have an edge of one with all of the other outside."""
    apart = np.zeros(len(first), bool)
    for one, other in ((first, second), (second, first)):
        edges = np.roll(one, -1, axis=1) - one
        normals = np.stack([edges[..., 1], -edges[..., 0]], -1)
        mine = np.einsum("tex,tcx->tec", normals, one).max(-1)
        theirs = np.einsum("tex,tcx->tec", normals, other).min(-1)
        apart |= (theirs >= mine).any(1)
    return apart


def test_moving_things_head_where_they_go_and_carry_matching_attributes():
    for actor in scenes_of("mini_train", 0)[0].actors:
        before, now, after = actor.motion.poses([6.9, 7.0, 7.1])
        moved = after[:2] - before[:2]
        if np.linalg.norm(moved) > 0.08:
            heading = np.array([np.cos(now[2]), np.sin(now[2])])
            assert moved @ heading > 0.95 * np.linalg.norm(moved)
            assert not actor.attribute(7.0).endswith(("parked", "stopped", "standing"))
        else:
            assert not actor.attribute(7.0).endswith("moving")


def test_the_same_plan_gives_the_same_scene_and_another_seed_another():
    (plan,) = plan_split("mini_val", ["scene-0103"], 4, 4)
    (other,) = plan_split("mini_val", ["scene-0103"], 5, 4)
    first, second = build_scene(plan), build_scene(plan)
    assert first.global_from_town == second.global_from_town
    assert [a.category for a in first.actors] == [a.category for a in second.actors]
    for one, two in zip(first.actors, second.actors, strict=True):
        np.testing.assert_array_equal(one.shape.vertices, two.shape.vertices)
        np.testing.assert_array_equal(one.motion.poses(1.0), two.motion.poses(1.0))
    assert build_scene(other).global_from_town != first.global_from_town


def test_short_scenes_stay_in_town_and_take_turns_with_the_classes():
    plans = plan_split("train", list(splits.train)[:40], 5, 10)
    assert not {"arrive", "leave"} & {plan.kind for plan in plans}
    assert Counter(name for plan in plans for name in plan.required) == Counter(
        dict.fromkeys(DETECTION_CLASSES, 12)
    )
    assert all(len(set(plan.required)) == 3 for plan in plans)
