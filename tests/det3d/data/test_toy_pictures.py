"""The painter and the lidar, against ray casting and hand-computed distances."""

from dataclasses import replace

import numpy as np
import pytest

from det3d.data.toy_backdrop import make_backdrop, make_views
from det3d.data.toy_lidar import GROUND, cast_sweep, hit_solids
from det3d.data.toy_mesh import item_poses, make_mesh
from det3d.data.toy_motion import resting
from det3d.data.toy_paint import FIRST_ACTOR_ID, actor_shadows, paint_camera
from det3d.data.toy_rig import CAMERAS, LIDAR, yaw_to_matrix
from det3d.data.toy_scene import build_scene, plan_split
from det3d.data.toy_shapes import ShapeBuilder
from det3d.data.toy_town import SKY, Fixture, paint_ground
from det3d.data.toy_traffic import Actor

SIZE = (96, 160)


@pytest.fixture(scope="module")
def town_scene():
    (plan,) = plan_split("mini_val", ["scene-0103"], 3, 4)
    return build_scene(plan)


def block(name, x, y, size=(2.0, 2.0, 2.0), yaw=0.0):
    half = np.array(size) / 2
    shape = ShapeBuilder().box(-half, half, (0.5, 0.5, 0.5)).build()
    return Actor(name, "vehicle.car", shape, resting(x, y, yaw))


def stage(town_scene, actors, fixtures=()):
    """A scene with the ego at rest at the origin."""
    still = resting(0.0, 0.0, 0.0)
    return replace(town_scene, actors=tuple(actors), fixtures=tuple(fixtures), ego=still)


def pictures(scene, time=0.0, cameras=range(6), size=SIZE):
    ground = paint_ground(scene.town, scene.light, list(scene.fixtures), scene.plan.rng(4))
    backdrop = make_backdrop(ground, scene.town.area[:2], scene.light, scene.plan.rng(5))
    mesh, poses = make_mesh(scene), item_poses(scene, np.array(time))
    shadows = actor_shadows(mesh, poses, scene.light.sun)
    views = make_views(size)
    ego = scene.ego.poses(time)
    return [
        paint_camera(mesh, poses, ego, views[k], backdrop, shadows, labelled=True) for k in cameras
    ]


def rays_of(camera, size, ego):
    """Town-frame rays (H, W, 3) through pixel centres, and the eye."""
    height, width = size
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([u, v, np.ones_like(u)], -1)
    rays = pixels @ np.linalg.inv(camera.intrinsics(size)).T
    turn = yaw_to_matrix(ego[2])
    eye = turn @ np.array(camera.translation) + [*ego[:2], 0]
    return rays @ (turn @ camera.ego_from_sensor).T, eye


@pytest.mark.parametrize("camera", [0, 2, 3, 5])
def test_painted_ids_are_what_rays_hit_first(town_scene, camera):
    picture = pictures(town_scene, 0.5, [camera])[0]
    mesh, poses = make_mesh(town_scene), item_poses(town_scene, np.array(0.5))
    rays, eye = rays_of(CAMERAS[camera], SIZE, town_scene.ego.poses(0.5))
    nearest = np.where(rays[..., 2] < 0, -eye[2] / np.minimum(rays[..., 2], -1e-9), np.inf)
    hit = np.zeros(SIZE, int)
    labels = mesh.stuff.copy()
    labels[picture.actors] = FIRST_ACTOR_ID + np.arange(len(picture.actors))
    for item, shape in enumerate(mesh.shapes):
        reach = hit_solids(shape, poses[item], eye, rays)
        hit[reach < nearest] = labels[item]
        nearest = np.minimum(nearest, reach)
    solid = hit > 0
    painted = np.where((picture.ids >= 4) & (picture.ids != SKY), picture.ids, 0)
    # Borders differ by sub-pixels and wheels are painted details, so nearly all, not all.
    assert (painted == hit)[solid].mean() > 0.93
    assert (painted == hit).mean() > 0.96


def test_the_nearer_of_two_blocks_hides_the_farther(town_scene):
    blocks = [block("car", 20.0, 0.0, (4.0, 4.0, 2.0)), block("car", 12.0, 0.0)]
    front = pictures(stage(town_scene, blocks), cameras=[0])[0]
    assert front.actors.tolist() == [1, 0]  # nearest first
    assert front.visible[0] == front.whole[0]
    assert 0 < front.visible[1] < front.whole[1]


def test_a_block_behind_a_wall_is_whole_but_not_visible(town_scene):
    wall = ShapeBuilder().box((10, -6, 0), (10.5, 6, 5), (0.5, 0.5, 0.5)).build(centred=False)
    scene = stage(town_scene, [block("car", 15.0, 0.0)], [Fixture(wall, 4)])
    front = pictures(scene, cameras=[0])[0]
    assert front.visible.tolist() == [0]
    assert front.whole[0] > 100


def test_a_block_is_painted_where_its_corners_project(town_scene):
    scene = stage(town_scene, [block("car", 14.0, 1.5, yaw=0.4)])
    front = pictures(scene, cameras=[0], size=(256, 448))[0]
    rows, columns = np.nonzero(front.ids == FIRST_ACTOR_ID)
    camera = CAMERAS[0]
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0.02, 2.02)], float)
    corners = corners @ yaw_to_matrix(0.4).T + [14.0, 1.5, 0]
    seen = (corners - camera.translation) @ camera.ego_from_sensor @ camera.intrinsics((256, 448)).T
    pixels = seen[:, :2] / seen[:, 2:]
    low, high = pixels.min(0), pixels.max(0)
    np.testing.assert_allclose((columns.min(), rows.min()), low, atol=1.0)
    np.testing.assert_allclose((columns.max() + 1, rows.max() + 1), high, atol=1.0)


def test_something_abreast_is_seen_by_two_cameras(town_scene):
    scene = stage(town_scene, [block("car", 9.0, 6.5, (4.5, 1.9, 1.7))])
    seen = [
        CAMERAS[k].channel for k, p in enumerate(pictures(scene)) if len(p.visible) and p.visible[0]
    ]
    assert {"CAM_FRONT", "CAM_FRONT_LEFT"} <= set(seen)


def test_lidar_ranges_match_a_block_and_the_ground(town_scene):
    scene = stage(town_scene, [block("car", 12.0, 0.0, (2.0, 20.0, 4.0))])
    mesh, poses = make_mesh(scene), item_poses(scene, np.array(0.0))
    sweep = cast_sweep(mesh, poses, np.zeros(3), np.random.default_rng(0))
    points = sweep.points
    assert (sweep.items == 0).sum() > 1000
    np.testing.assert_allclose(points[sweep.items == 0][:, 0], 11.0, atol=1e-9)
    ground = points[sweep.items == GROUND]
    assert ground[:, 2].min() > -0.0101
    assert ground[:, 2].max() < 1e-9
    shadowed = (ground[:, 0] > 13.2) & (np.abs(ground[:, 1]) < 9)
    assert not shadowed.any()  # nothing is seen through the block
    np.testing.assert_allclose(sweep.eye, LIDAR.translation)
