from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from det3d.boxes import CORNER_EDGES, box_corners
from det3d.cameras import CameraRig
from det3d.geometry import Region, make_transform, rotation_about_z
from det3d.structures import SceneBatch
from det3d.visualization.birds_eye import draw_birds_eye
from det3d.visualization.cameras import (
    GAP,
    PictureStyle,
    draw_cameras,
    draw_lidar_on_cameras,
)
from det3d.visualization.canvas import dash
from det3d.visualization.contents import Contents, QueryTrails, missed, query_trails
from det3d.visualization.frustum import NEAR, clip_polygon, clip_segments, to_pixels, view_planes
from det3d.visualization.layout import camera_rows, direction_name
from det3d.visualization.palette import CLASS_COLORS, class_color
from det3d.visualization.scene import draw_scene
from det3d.visualization.video import write_video
from detr2d.structures import Detections, Predictions, Targets

NAMES = ("car", "truck", "pedestrian")
HEIGHT, WIDTH = 240, 320
STYLE = PictureStyle(camera_width=WIDTH)
CAR_AHEAD = [0.0, 12.0, 0.0, 4.0, 2.0, 1.5, 0.4, 0.0, 0.0]


def make_scene(azimuths: list[float], height: int = HEIGHT, width: int = WIDTH) -> SceneBatch:
    """Black images of level cameras at the origin; azimuths in degrees from +y, left positive."""
    count = len(azimuths)
    forward = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    rotation = forward @ rotation_about_z(-torch.tensor(azimuths).deg2rad() - math.pi / 2)
    intrinsics = torch.tensor([[200.0, 0, width / 2], [0, 200, height / 2], [0, 0, 1]])
    rig = CameraRig(
        intrinsics=intrinsics.repeat(1, count, 1, 1),
        camera_from_ref=make_transform(rotation, torch.zeros(count, 3)).unsqueeze(0),
        image_sizes=torch.tensor([height, width]).float().repeat(1, count, 1),
        present=torch.ones(1, count, dtype=torch.bool),
        timestamps=torch.zeros(1, count, dtype=torch.float64),
    )
    images = torch.zeros(1, count, 3, height, width, dtype=torch.uint8)
    return SceneBatch(images, rig, ("0123456789abcdef",))


def truth(*boxes: list[float], label: int = 0) -> Contents:
    tensor = torch.tensor(boxes).reshape(-1, 9)
    return Contents(
        class_names=NAMES, ground_truth=Targets(torch.full((len(boxes),), label), tensor)
    )


def detections(*boxes: list[float], score: float = 0.5) -> Detections:
    count = len(boxes)
    return Detections(
        scores=torch.full((count,), score),
        labels=torch.zeros(count, dtype=torch.long),
        boxes=torch.tensor(boxes).reshape(-1, 9),
        queries=torch.arange(count),
    )


def is_colored(picture: np.ndarray, pixel: np.ndarray, color: tuple[int, int, int]) -> bool:
    """Whether the colour stands at a pixel or one beside it."""
    x, y = np.floor(pixel).astype(int)
    patch = picture[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].astype(int)
    return bool((np.abs(patch - color).max(-1) < 60).any())


def edge_points(box: list[float], steps: int = 15) -> torch.Tensor:
    """Points (12 * steps, 3) along the edges of a box."""
    corners = box_corners(torch.tensor(box, dtype=torch.float64))
    first, second = (list(ends) for ends in zip(*CORNER_EDGES, strict=True))
    fractions = torch.linspace(0.05, 0.95, steps).double()[:, None, None]
    return (corners[first] + fractions * (corners[second] - corners[first])).flatten(0, 1)


# --- colours ---------------------------------------------------------------------------------

MACHADO = {  # linear RGB seen with a colour vision deficiency, Machado et al. 2009, severity 1
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("vision", MACHADO)
def test_class_colors_stay_apart_for_every_kind_of_colour_vision(vision: str) -> None:
    encoded = np.array(CLASS_COLORS) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.array(MACHADO[vision]).T).clip(0, 1)
    cones = seen @ np.array(
        [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    ).T  # fmt: skip
    lab = np.cbrt(cones) @ np.array(
        [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    ).T  # fmt: skip
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)[np.triu_indices(len(lab), 1)]
    assert len(lab) == 10
    assert distances.min() > 0.10


# --- clipping --------------------------------------------------------------------------------


def random_rays(seed: int, count: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3)) * (8, 6, 6)
    return points @ np.array([[200, 0, 160], [0, 200, 120], [0, 0, 1.0]]).T


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6))
def test_clipped_segments_are_what_dense_points_along_them_show(seed: int) -> None:
    planes = view_planes(HEIGHT, WIDTH)
    start, end = random_rays(seed, 2)
    segments, kept = clip_segments(start[None], end[None], planes)
    along = np.linspace(0, 1, 2001)[:, None]
    dense = start + along * (end - start)
    pixels = to_pixels(dense[dense[:, 2] > NEAR])
    inside = pixels[((pixels >= 0) & (pixels <= (WIDTH, HEIGHT))).all(-1)]
    assert np.isfinite(segments).all()
    if len(inside) > 1:
        assert kept.tolist() == [0]
        low, high = segments[0].min(0), segments[0].max(0)
        assert (inside >= low - 1e-6).all()
        assert (inside <= high + 1e-6).all()
    assert (segments >= -1e-6).all()
    assert (segments <= np.array([WIDTH, HEIGHT]) + 1e-6).all()


def test_a_segment_through_the_near_plane_is_cut_by_hand() -> None:
    planes = view_planes(100, 100, margin=1e9)
    start, end = np.array([[0.0, 0.0, -1.9]]), np.array([[4.0, 2.0, 2.1]])
    segments, _ = clip_segments(start, end, planes)  # depth 0.1 is half way
    np.testing.assert_allclose(segments[0, 0], [2.0 / 0.1, 1.0 / 0.1])
    np.testing.assert_allclose(segments[0, 1], [4.0 / 2.1, 2.0 / 2.1])


def test_segments_inside_stay_and_segments_behind_vanish() -> None:
    planes = view_planes(100, 100)
    inside, behind = np.array([[100.0, 100, 2], [20, 60, 1]]), np.array([[0.0, 0, -1], [1, 1, -2]])
    segments, kept = clip_segments(
        np.stack([inside[0], behind[0]]), np.stack([inside[1], behind[1]]), planes
    )
    assert kept.tolist() == [0]
    np.testing.assert_allclose(segments[0], [[50, 50], [20, 60]])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6))
def test_clipped_polygons_lie_in_the_picture(seed: int) -> None:
    corners = clip_polygon(random_rays(seed, 3), view_planes(HEIGHT, WIDTH))
    assert np.isfinite(corners).all()
    assert (corners >= -1e-6).all()
    assert (corners <= np.array([WIDTH, HEIGHT]) + 1e-6).all()


def test_a_polygon_over_the_whole_picture_becomes_the_picture() -> None:
    rays = np.array([[-1e4, -1e4, 1], [1e4, -1e4, 1], [1e4, 1e4, 1], [-1e4, 1e4, 1]])
    corners = clip_polygon(rays, view_planes(100, 200))
    assert {tuple(corner) for corner in corners.round(6) + 0.0} == {
        (0, 0), (200, 0), (200, 100), (0, 100),
    }  # fmt: skip


@pytest.mark.parametrize("length", [0.5, 6, 9.9, 10, 33, 100.5])
def test_dashes_touch_both_ends_and_do_not_meet(length: float) -> None:
    pieces = dash(np.zeros(2), np.array([0, length]), on=6, off=4)[..., 1]
    assert pieces[0, 0] == 0
    assert pieces[-1, 1] == pytest.approx(length)
    assert (pieces[1:, 0] > pieces[:-1, 1]).all()


# --- cameras ---------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [WIDTH, 2 * WIDTH], ids=["native size", "enlarged"])
def test_a_box_is_drawn_where_its_edges_project(width: int) -> None:
    scene = make_scene([0])
    picture = draw_cameras(scene, truth(CAR_AHEAD), style=replace(STYLE, camera_width=width))
    projected = scene.rig.project(edge_points(CAR_AHEAD).unsqueeze(0))
    assert bool(projected.visible.all())
    pixels = projected.pixels[0, 0].numpy() * width / WIDTH
    assert all(is_colored(picture, pixel, class_color(0)) for pixel in pixels)


def test_nothing_is_drawn_away_from_the_box() -> None:
    scene = make_scene([0])
    empty, picture = (
        draw_cameras(scene, truth(*boxes), style=STYLE) for boxes in ([], [CAR_AHEAD])
    )
    rows, columns = np.nonzero((empty != picture).any(-1))
    corners = box_corners(torch.tensor([CAR_AHEAD])).view(1, 8, 3)
    pixels = scene.rig.project(corners).pixels[0, 0]
    low, high = pixels.amin(0), pixels.amax(0)
    assert columns.min() >= low[0] - 3
    assert columns.max() <= high[0] + 3
    assert rows.max() <= high[1] + 3
    assert rows.min() >= low[1] - 3 - 20  # room for the label


def test_a_box_behind_the_camera_draws_nothing() -> None:
    scene = make_scene([0])
    behind = [0.0, -12.0, *CAR_AHEAD[2:]]
    assert np.array_equal(
        draw_cameras(scene, truth(behind), style=STYLE), draw_cameras(scene, truth(), style=STYLE)
    )


@pytest.mark.parametrize(
    "box",
    [
        [1.6, 1.0, 0.0, 8.0, 1.5, 1.5, math.pi / 2, 0.0, 0.0],
        [0.0, 4.0, 0.0, 3.0, 9.0, 1.0, 0.3, 0.0, 0.0],
        [0.0, 0.0, -0.5, 14.0, 3.0, 0.3, 1.2, 0.0, 0.0],
    ],
    ids=["beside", "across", "underneath"],
)
def test_a_box_partly_behind_the_camera_is_cut_not_folded(box: list[float]) -> None:
    scene = make_scene([0])
    picture = draw_cameras(scene, truth(box), style=STYLE)
    points = edge_points(box, steps=60).unsqueeze(0)
    projected = scene.rig.project(points)
    assert bool((projected.depth < 0).any())
    away_from_title = projected.pixels[0, 0, :, 1] > 30
    seen = projected.visible[0, 0] & (projected.depth[0, 0] > 2 * NEAR) & away_from_title
    assert int(seen.sum()) > 20
    colored = [is_colored(picture, p, class_color(0)) for p in projected.pixels[0, 0][seen].numpy()]
    assert np.mean(colored) > 0.97  # the box's own label may cover a few


def test_ground_truth_beside_detections_is_white_and_dashed() -> None:
    scene = make_scene([0])
    contents = replace(truth(CAR_AHEAD), detections=detections())
    picture = draw_cameras(scene, contents, style=STYLE)
    pixels = scene.rig.project(edge_points(CAR_AHEAD).unsqueeze(0)).pixels[0, 0].numpy()
    white = np.mean([is_colored(picture, pixel, (255, 255, 255)) for pixel in pixels])
    assert 0.5 < white < 1


def test_the_front_face_is_filled() -> None:
    scene = make_scene([0])
    facing = [*CAR_AHEAD[:6], -math.pi / 2, 0.0, 0.0]
    front = torch.tensor([[[0.3, 10.0, 0.3]]])
    column, row = scene.rig.project(front).pixels[0, 0, 0].int().tolist()
    filled = draw_cameras(scene, truth(facing), style=STYLE)[row, column] / class_color(0)[2]
    assert filled[2] == pytest.approx(0.28, abs=0.05)  # over black


def test_names_of_missed_objects_only() -> None:
    shifted = [1.5, *CAR_AHEAD[1:]]
    far = [9.0, *CAR_AHEAD[1:]]
    objects = Targets(torch.tensor([0, 0, 1]), torch.tensor([CAR_AHEAD, far, CAR_AHEAD]))
    assert missed(objects, detections(shifted)) == [False, True, True]
    assert missed(objects, detections()) == [True] * 3


# --- layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "degrees, expected",
    [
        ([0, -55, 55, 180, 110, -110], [[2, 0, 1], [4, 3, 5]]),  # nuScenes' channels
        ([30], [[0]]),
        ([-60, 0, 60], [[2, 1, 0]]),
        ([0, 120, -120], [[1, 0, 2]]),
        ([22, 67, 112, 157, -158, -113, -68, -23], [[1, 0, 7, 6], [2, 3, 4, 5]]),
        ([0, 72, 144, -144, -72], [[1, 0, 4], [2, 3]]),
    ],
    ids=["nuscenes", "one", "three ahead", "three around", "eight", "five"],
)
def test_cameras_stand_as_they_look(degrees: list[float], expected: list[list[int]]) -> None:
    assert camera_rows([math.radians(angle) for angle in degrees]) == expected


@pytest.mark.parametrize("count, columns, rows", [(1, 1, 1), (3, 3, 1), (6, 3, 2), (8, 4, 2)])
def test_the_mosaic_holds_every_camera(count: int, columns: int, rows: int) -> None:
    scene = make_scene([i * 360 / count + 10 for i in range(count)])
    shades = torch.arange(count) * 20 + 60
    scene = replace(scene, images=scene.images + shades.view(1, -1, 1, 1, 1).to(torch.uint8))
    picture = draw_cameras(scene, truth(), style=STYLE)
    width, height = (n * size + (n - 1) * GAP for n, size in ((columns, WIDTH), (rows, HEIGHT)))
    assert picture.shape == (height, width, 3)
    centres = picture[HEIGHT // 2 :: HEIGHT + GAP, WIDTH // 2 :: WIDTH + GAP, 0]
    assert sorted(centres.ravel().tolist()) == shades.tolist()


def test_absent_cameras_are_left_out() -> None:
    scene = make_scene([0, 90, 180])
    hidden = replace(scene.rig, present=torch.tensor([[True, False, True]]))
    picture = draw_cameras(replace(scene, rig=hidden), truth(), style=STYLE)
    assert picture.shape[1] == 2 * WIDTH + GAP


def test_cameras_of_unequal_size_keep_their_proportions_and_lose_their_padding() -> None:
    scene = make_scene([20, -20])
    images = scene.images.clone()
    images[0, 0, :, :120] = 200  # the valid half of the first camera
    sizes = torch.tensor([[[120.0, WIDTH], [HEIGHT, WIDTH]]])
    scene = replace(scene, images=images, rig=replace(scene.rig, image_sizes=sizes))
    picture = draw_cameras(scene, truth(), style=STYLE)
    bright = (picture[:, WIDTH // 2] == 200).all(-1)
    assert bright.sum() == 120
    assert bright[60:180].all()  # centred beside the higher one


@pytest.mark.parametrize(
    "degrees, name",
    [(0, "front"), (55, "front left"), (-55, "front right"), (90, "left"), (-110, "back right"),
     (175, "back"), (-179, "back")],
)  # fmt: skip
def test_directions_have_names(degrees: float, name: str) -> None:
    assert direction_name(math.radians(degrees)) == name


# --- lidar and queries -------------------------------------------------------------------------


def test_lidar_points_are_drawn_where_they_project_and_near_ones_cover_far_ones() -> None:
    scene = make_scene([0])
    points = torch.tensor([[1.0, 10, 1, 0], [5.0, 50, 5, 0], [0, -10, 0, 0]])  # one ray, one behind
    picture = draw_lidar_on_cameras(scene, points, style=STYLE)[:HEIGHT]
    near_only = draw_lidar_on_cameras(scene, points[:1], style=STYLE)[:HEIGHT]
    pixel = scene.rig.project(points[None, :1, :3]).pixels[0, 0, 0].int().tolist()
    assert picture[pixel[1], pixel[0]].max() > 100
    assert np.array_equal(picture, near_only)
    lit = np.argwhere((picture != 0).any(-1) & (np.arange(HEIGHT) > 40)[:, None])
    assert np.abs(lit - pixel[::-1]).max() <= 3


def test_query_trails_are_those_of_the_detections_in_metres() -> None:
    region = Region((0, 0, 0), (10, 20, 40))
    predictions = Predictions(
        logits=torch.zeros(2, 1, 5, 3),
        codes=torch.zeros(2, 1, 5, 10),
        references=torch.rand(3, 1, 5, 3),
        sampling_points=torch.rand(2, 1, 5, 4, 3),
    )
    found = replace(detections(CAR_AHEAD, CAR_AHEAD), queries=torch.tensor([4, 1]))
    trails = query_trails(predictions, found, region)
    assert trails is not None
    assert trails.samples is not None
    assert predictions.references is not None
    assert predictions.sampling_points is not None
    scale = torch.tensor([10.0, 20, 40])
    torch.testing.assert_close(trails.references, predictions.references[:, 0, [4, 1]] * scale)
    torch.testing.assert_close(trails.samples, predictions.sampling_points[:, 0, [4, 1]] * scale)
    assert query_trails(replace(predictions, references=None), found, region) is None


def test_trails_and_samples_are_drawn_where_they_project() -> None:
    scene = make_scene([0])
    trails = QueryTrails(
        references=torch.tensor([[[-2.0, 10, 0]], [[2.0, 10, 0]]]),
        samples=torch.tensor([[[[0.0, 10, 1.5], [0, -10, 1]]]]),
        labels=torch.tensor([2]),
    )
    picture = draw_cameras(scene, replace(truth(), trails=trails), style=STYLE)
    points = torch.tensor([[[0.0, 10, 0], [2, 10, 0], [0, 10, 1.5]]])
    way, end, sample = scene.rig.project(points).pixels[0, 0].numpy()
    assert is_colored(picture, way, (255, 255, 255))
    assert is_colored(picture, end, class_color(2))
    assert is_colored(picture, sample, class_color(2))


# --- from above --------------------------------------------------------------------------------


def bright_centre(picture: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean (x, y) of what differs, from the middle of the picture."""
    rows, columns = np.nonzero((picture != reference).any(-1))
    return np.array([columns.mean(), rows.mean()]) + 0.5 - picture.shape[0] / 2


@pytest.mark.parametrize(
    "place, forward_yaw, expected",
    [
        ((0.0, 20.0), math.pi / 2, (0, -100)),  # LIDAR_TOP: y is forward, drawn up
        ((20.0, 0.0), math.pi / 2, (100, 0)),  # x is right
        ((-10.0, -20.0), math.pi / 2, (-50, 100)),
        ((20.0, 0.0), 0.0, (0, -100)),  # an ego frame: x is forward
        ((0.0, 20.0), 0.0, (-100, 0)),  # y is left
    ],
)
def test_forward_is_up_and_right_is_right(
    place: tuple[float, float], forward_yaw: float, expected: tuple[float, float]
) -> None:
    scene, style = make_scene([0]), PictureStyle(reach=50, forward_yaw=forward_yaw)
    box = [*place, 0.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0]
    empty, picture = (
        draw_birds_eye(scene.rig, truth(*boxes), size=500, style=style) for boxes in ([], [box])
    )
    np.testing.assert_allclose(bright_centre(picture, empty), expected, atol=2)


def test_the_front_is_marked_towards_the_heading() -> None:
    scene, style = make_scene([0]), PictureStyle(reach=10)
    box = [0.0, 5.0, 0.0, 4.0, 2.0, 1.0, 0.0, 0.0, 0.0]  # heads along +x, right
    picture = draw_birds_eye(scene.rig, truth(box), size=400, style=style).astype(int)
    lines = np.argwhere((np.abs(picture - class_color(0)) < 40).all(-1))
    assert lines[:, 1].mean() - 200 > 5
    assert abs(lines[:, 0].mean() - 100) < 1


def test_velocity_is_an_arrow_and_unknown_velocity_none() -> None:
    scene, style = make_scene([0]), PictureStyle(reach=20)
    still, moving, unknown = (
        [0.0, 8.0, 0.0, 1.0, 1.0, 1.0, 0.0, *velocity]
        for velocity in ((0.0, 0.0), (6.0, 0.0), (math.nan, math.nan))
    )
    pictures = [
        draw_birds_eye(scene.rig, truth(box), size=400, style=style)
        for box in (still, moving, unknown)
    ]
    assert np.array_equal(pictures[0], pictures[2])
    rows, columns = np.nonzero((pictures[0] != pictures[1]).any(-1))
    assert columns.max() == pytest.approx(200 + 6 * 10, abs=2)  # a second ahead, 10 pixels a metre
    assert abs(rows.mean() - 120) < 2


def test_lidar_points_appear_from_above() -> None:
    scene, style = make_scene([0]), PictureStyle(reach=50)
    lidar = torch.tensor([[-20.0, 10.0, 0.0, 9.0]])
    empty, picture = (
        draw_birds_eye(scene.rig, replace(truth(), lidar=points), size=500, style=style)
        for points in (None, lidar)
    )
    np.testing.assert_allclose(bright_centre(picture, empty), (-100, -50), atol=2)


# --- whole pictures and videos -------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 6, 8])
def test_a_scene_of_any_rig_has_even_sides_and_no_dependence_on_its_contents(count: int) -> None:
    scene = make_scene([i * 360 / count for i in range(count)], 90, 161)
    style = PictureStyle(camera_width=161)
    empty = draw_scene(scene, truth(), style=style)
    everything = Contents(
        class_names=NAMES,
        ground_truth=Targets(torch.tensor([1]), torch.tensor([CAR_AHEAD])),
        detections=detections(CAR_AHEAD),
        trails=QueryTrails(torch.rand(3, 1, 3) * 20, None, torch.tensor([0])),
        lidar=torch.randn(50, 5) * 10,
    )
    full = draw_scene(scene, everything, title="a scene", style=style)
    assert empty.shape == full.shape
    assert full.dtype == np.uint8
    assert full.shape[0] % 2 == full.shape[1] % 2 == 0


def test_what_cannot_be_drawn_is_refused() -> None:
    scene = make_scene([0])
    with pytest.raises(ValueError, match=r"uint8 RGB, got torch\.float32"):
        draw_cameras(replace(scene, images=scene.images.float()), truth())
    absent = replace(scene.rig, present=torch.tensor([[False]]))
    with pytest.raises(ValueError, match="0123456789abcdef has no camera"):
        draw_cameras(replace(scene, rig=absent), truth())


def test_a_video_holds_its_frames_for_browsers(tmp_path: Path) -> None:
    frames = [np.full((60, 102, 3), 40 * i, dtype=np.uint8) for i in range(5)]
    path = tmp_path / "new" / "clip.mp4"
    assert write_video(iter(frames), path, fps=5) == 5
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    levels = [np.frombuffer(frame, np.uint8).mean() for frame in reader]
    assert meta["size"] == (102, 60)
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == 5
    np.testing.assert_allclose(levels, [0, 40, 80, 120, 160], atol=4)


@pytest.mark.parametrize(
    "shapes, message",
    [
        ([], "no frames"),
        ([(61, 60)], "even sides, got 61 x 60"),
        ([(60, 60), (60, 62)], "frame 1 of .* is"),
    ],
)
def test_frames_that_make_no_video_are_refused(
    tmp_path: Path, shapes: list[tuple[int, int]], message: str
) -> None:
    frames = (np.zeros((*shape, 3), np.uint8) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        write_video(frames, tmp_path / "clip.mp4", fps=2)
