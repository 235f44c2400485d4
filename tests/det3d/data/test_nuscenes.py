import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from nuscenes import NuScenes
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.geometry_utils import BoxVisibility, view_points
from PIL import Image
from torch.utils.data import DataLoader

from det3d.boxes import box_corners, transform_boxes
from det3d.data.nuscenes import CAMERAS, NuScenesConfig, NuScenesDataset
from det3d.data.nuscenes_index import DETECTION_CLASSES
from det3d.data.transforms import WorldRotation
from det3d.geometry import transform_points, wrap_angle
from det3d.structures import SceneBatch
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

VERSION = "v1.0-mini"
NATIVE = (45, 80)
REAL = Path(__file__).resolve().parents[3] / "../shared/real/nuscenes_frame"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real/nuscenes_frame")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_nuscenes(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def devkit(root: Path) -> NuScenes:
    return NuScenes(VERSION, str(root), verbose=False)


def config(root: Path, index_dir: Path, **settings: object) -> NuScenesConfig:
    defaults = {"training_split": "mini_train", "evaluation_split": "mini_train"}
    return NuScenesConfig(
        root=root,
        version=VERSION,
        index_dir=index_dir,
        **(defaults | {"image_size": NATIVE} | settings),
    )


@pytest.fixture(scope="module")
def dataset(root: Path, tmp_path_factory: pytest.TempPathFactory) -> NuScenesDataset:
    return config(root, tmp_path_factory.mktemp("index")).evaluation_set()


def devkit_boxes(devkit: NuScenes, scene: SceneBatch) -> list:
    """The benchmark's objects of a sample in its lidar frame, by the devkit alone."""
    sample = devkit.get("sample", scene.tokens[0])
    lidar = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
    ego = devkit.get("ego_pose", lidar["ego_pose_token"])
    sensor = devkit.get("calibrated_sensor", lidar["calibrated_sensor_token"])
    boxes = []
    for box in devkit.get_boxes(lidar["token"]):
        annotation = devkit.get("sample_annotation", box.token)
        name = category_to_detection_name(box.name)
        if name is None or annotation["num_lidar_pts"] + annotation["num_radar_pts"] == 0:
            continue
        box.velocity = np.append(devkit.box_velocity(box.token)[:2], 0)
        for pose in (ego, sensor):
            box.translate(-np.array(pose["translation"]))
            box.rotate(type(box.orientation)(pose["rotation"]).inverse)
        box.name = name
        boxes.append(box)
    return boxes


@pytest.mark.parametrize("item", range(5))
def test_boxes_are_those_of_the_devkit(
    dataset: NuScenesDataset, devkit: NuScenes, item: int
) -> None:
    scene = dataset[item]
    expected = devkit_boxes(devkit, scene)
    boxes, labels = scene.targets[0].boxes.double(), scene.targets[0].labels
    assert [DETECTION_CLASSES[label] for label in labels] == [box.name for box in expected]
    np.testing.assert_allclose(boxes[:, :3], [box.center for box in expected], atol=1e-4)
    np.testing.assert_allclose(boxes[:, [4, 3, 5]], [box.wlh for box in expected], atol=1e-5)
    headings = np.array([box.orientation.rotation_matrix[:2, 0] for box in expected])
    yaws = np.arctan2(headings[:, 1], headings[:, 0])
    # A tilted lidar sees a shortened heading; seen from above the angles agree to tilt squared.
    difference = np.remainder(boxes[:, 6].numpy() - yaws + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(difference, 0, atol=1e-5)
    velocity = np.array([box.velocity[:2] for box in expected])
    np.testing.assert_allclose(boxes[:, 7:], velocity, atol=1e-4)


def test_objects_without_points_and_of_other_categories_are_left_out(
    dataset: NuScenesDataset,
) -> None:
    cone = DETECTION_CLASSES.index("traffic_cone")
    assert sorted(dataset[1].targets[0].labels.tolist()) == list(range(10))
    assert cone not in dataset[0].targets[0].labels


@pytest.mark.parametrize("channel", CAMERAS)
def test_projections_are_those_of_the_devkit(
    dataset: NuScenesDataset, devkit: NuScenes, channel: str
) -> None:
    scene = dataset[1]
    sample = devkit.get("sample", scene.tokens[0])
    view = CAMERAS.index(channel)
    projection = scene.rig.project(scene.targets[0].boxes[:, :3].unsqueeze(0))
    _, boxes, intrinsics = devkit.get_sample_data(
        sample["data"][channel], box_vis_level=BoxVisibility.NONE
    )
    annotations = [devkit.get("sample_annotation", box.token) for box in boxes]
    kept = [
        box.center
        for box, row in zip(boxes, annotations, strict=True)
        if category_to_detection_name(row["category_name"]) and row["num_lidar_pts"]
    ]
    expected = view_points(np.array(kept).T, intrinsics, normalize=True)[:2].T
    ahead = np.array(kept)[:, 2] > 1
    assert ahead.any()
    found = projection.pixels[0, view].numpy()
    np.testing.assert_allclose(found[ahead], expected[ahead], atol=1e-3)
    np.testing.assert_allclose(projection.depth[0, view], np.array(kept)[:, 2], atol=1e-4)
    row = devkit.get("sample_data", sample["data"][channel])
    assert scene.rig.timestamps[0, view] == pytest.approx(1e-6 * row["timestamp"], abs=1e-7)


def test_images_are_rgb_in_camera_order_and_native_size(
    dataset: NuScenesDataset, devkit: NuScenes
) -> None:
    scene = dataset[0]
    sample = devkit.get("sample", scene.tokens[0])
    paths = [devkit.get_sample_data_path(sample["data"][channel]) for channel in CAMERAS]
    expected = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert scene.images.dtype == torch.uint8
    np.testing.assert_array_equal(scene.images[0].permute(0, 2, 3, 1), expected)


def test_the_rig_follows_a_resize(root: Path, tmp_path: Path, dataset: NuScenesDataset) -> None:
    resized = config(root, tmp_path, image_size=(30, 100)).evaluation_set()[2]
    assert resized.images.shape == (1, 6, 3, 30, 100)
    assert resized.rig.image_sizes[0, 0].tolist() == [30, 100]
    points = dataset[2].targets[0].boxes[:, :3].unsqueeze(0)
    before, after = dataset[2].rig.project(points), resized.rig.project(points)
    scale = torch.tensor([100 / 80, 30 / 45])
    seen = before.visible
    assert seen.any()
    torch.testing.assert_close(after.pixels[seen], before.pixels[seen] * scale)
    assert torch.equal(after.visible, before.visible)


def test_any_subset_and_order_of_cameras(
    root: Path, tmp_path: Path, dataset: NuScenesDataset
) -> None:
    chosen = ("CAM_BACK", "CAM_FRONT")
    scene, full = config(root, tmp_path, cameras=chosen).evaluation_set()[0], dataset[0]
    slots = [CAMERAS.index(channel) for channel in chosen]
    assert torch.equal(scene.images, full.images[:, slots])
    assert torch.equal(scene.rig.camera_from_ref, full.rig.camera_from_ref[:, slots])
    with pytest.raises(ValueError, match=r"no camera CAM_UP .* it has CAM_BACK, .*CAM_FRONT"):
        config(root, tmp_path, cameras=("CAM_UP",)).evaluation_set()


def test_a_missing_camera_is_absent_and_nothing_else_changes(
    tmp_path: Path, dataset: NuScenesDataset
) -> None:
    missing = {1: ("CAM_BACK",)}
    other = write_tiny_nuscenes(tmp_path / "db", missing_cameras=missing)
    scene = config(other, tmp_path / "index").evaluation_set()[1]
    slot = CAMERAS.index("CAM_BACK")
    rest = [view for view in range(6) if view != slot]
    assert scene.rig.present[0].tolist() == [view != slot for view in range(6)]
    assert not scene.images[0, slot].any()
    assert torch.equal(scene.targets[0].boxes, dataset[1].targets[0].boxes)
    full = dataset[1].rig.select(rest)
    assert torch.equal(scene.rig.select(rest).camera_from_ref, full.camera_from_ref)
    assert torch.equal(scene.rig.select(rest).intrinsics, full.intrinsics)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("remove", FileNotFoundError, "CAM_FRONT: image file .* is missing"),
        ("break", ValueError, "CAM_FRONT: .* is no readable image"),
        (
            "shrink",
            ValueError,
            "CAM_FRONT: .* is 20 x 30 pixels .*, sample_data says 45 x 80",
        ),
    ],
)
def test_a_bad_image_is_named_with_its_sample_and_camera(
    tmp_path: Path, change: str, error: type[Exception], message: str
) -> None:
    root = write_tiny_nuscenes(tmp_path / "db", scenes={"scene-0061": 1})
    dataset = config(root, tmp_path / "index").evaluation_set()
    path = next((root / "samples/CAM_FRONT").iterdir())
    actions = {
        "remove": path.unlink,
        "break": lambda: path.write_bytes(b"no image at all"),
        "shrink": lambda: Image.new("RGB", (30, 20)).save(path),
    }
    actions[change]()
    token = str(dataset.index.sample_tokens[0], "utf-8")
    with pytest.raises(error, match=f"sample {token}, camera {message}"):
        dataset[0]


def test_workers_load_what_the_main_process_loads_and_follow_the_epoch(
    root: Path, tmp_path: Path
) -> None:
    data = config(root, tmp_path, augmentations=(WorldRotation(1.0),))
    dataset, alone = data.training_set(seed=5), data.training_set(seed=5)
    loader = DataLoader(
        dataset, batch_size=2, num_workers=2, persistent_workers=True, collate_fn=data.collate
    )
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        alone.set_epoch(epoch)
        batches = list(loader)
        assert [len(batch) for batch in batches] == [2, 2, 1]
        boxes = [t.boxes for batch in batches for t in batch.targets]
        expected = [alone[item].targets[0].boxes for item in range(5)]
        torch.testing.assert_close(boxes, expected, rtol=0, atol=0, equal_nan=True)


def test_augmentation_is_a_function_of_seed_epoch_and_item(root: Path, tmp_path: Path) -> None:
    data = config(root, tmp_path, augmentations=(WorldRotation(1.0),))

    def angles(seed: int, epoch: int) -> list[float]:
        dataset = data.training_set(seed)
        dataset.set_epoch(epoch)
        plain = data.evaluation_set()
        return [
            float((dataset[i].targets[0].boxes[0, 6] - plain[i].targets[0].boxes[0, 6]) % 6.2831853)
            for i in range(3)
        ]

    first = angles(1, 0)
    assert angles(1, 0) == first
    different = {round(angle, 4) for angle in [*first, *angles(2, 0), *angles(1, 1)]}
    assert len(different) == 9


def test_a_pickled_dataset_is_small_and_gives_the_same_samples(dataset: NuScenesDataset) -> None:
    content = pickle.dumps(dataset)
    assert len(content) < 5000
    assert torch.equal(pickle.loads(content)[3].images, dataset[3].images)


def test_collate_joins_samples_of_different_rigs(root: Path, tmp_path: Path) -> None:
    data = config(root, tmp_path)
    one = config(root, tmp_path, cameras=("CAM_BACK",), image_size=(30, 60)).evaluation_set()[0]
    batch = data.collate([data.evaluation_set()[1], one])
    assert batch.images.shape == (2, 6, 3, 45, 80)
    assert batch.rig.present.tolist() == [[True] * 6, [True] + [False] * 5]
    assert [len(targets) for targets in batch.targets] == [10, 9]


def test_lidar_points_come_in_the_ref_frame(dataset: NuScenesDataset) -> None:
    points = dataset.lidar_points(0)
    assert points.shape == (50, 5) and points.dtype == torch.float32


def test_the_command_line_changes_every_setting_but_augmentations(tmp_path: Path) -> None:
    default = config(tmp_path, tmp_path, augmentations=(WorldRotation(),))
    arguments = ["--root", "elsewhere", "--image-size", "128", "224", "--training-split", "a", "b"]
    parsed = tyro.cli(NuScenesConfig, default=default, args=arguments)
    assert parsed.root == Path("elsewhere") and parsed.image_size == (128, 224)
    assert parsed.training_split == ("a", "b") and parsed.evaluation_split == "mini_train"
    assert parsed.augmentations == default.augmentations


@pytest.mark.real
@needs_real
def test_the_real_frame_agrees_with_an_independent_source(tmp_path: Path) -> None:
    info = json.loads((REAL / "info.json").read_text())
    scene = config(REAL, tmp_path, image_size=(900, 1600)).evaluation_set()[0]
    assert scene.tokens == (info["token"],)
    boxes, labels = scene.targets[0].boxes, scene.targets[0].labels
    valid = [
        box
        for box in info["instances"]
        if box["class_name"] and box["num_lidar_pts"] + box["num_radar_pts"] > 0
    ]
    expected = torch.tensor([box["bbox_3d"] for box in valid])
    assert [DETECTION_CLASSES[label] for label in labels] == [b["class_name"] for b in valid]
    torch.testing.assert_close(boxes[:, :6], expected[:, :6], atol=1e-4, rtol=0)
    turn = torch.remainder(boxes[:, 6] - expected[:, 6] + torch.pi, 2 * torch.pi) - torch.pi
    torch.testing.assert_close(turn, torch.zeros_like(turn), atol=1e-3, rtol=0)
    corners = box_corners(boxes).flatten(0, 1)
    projection = scene.rig.project(corners.unsqueeze(0))
    homogeneous = torch.cat([corners, torch.ones_like(corners[:, :1])], dim=1).double()
    for view, channel in enumerate(CAMERAS):
        image_from_ref = torch.tensor(info["images"][channel]["lidar2img"], dtype=torch.float64)
        rays = homogeneous @ image_from_ref[:3].T
        seen = projection.visible[0, view]
        assert seen.any()
        pixels = (rays[:, :2] / rays[:, 2:3])[seen]
        error = (projection.pixels[0, view][seen] - pixels).abs().max()
        assert error < 1e-3, f"{channel}: {error} px"


def test_training_may_use_another_database_than_evaluation(root: Path, tmp_path: Path) -> None:
    other = write_tiny_nuscenes(tmp_path / "other")
    data = config(root, tmp_path, training_root=other, training_version=VERSION)
    assert data.training_set(0).root == other and data.evaluation_set().root == root


def test_the_ego_frame_tells_of_the_same_world(
    root: Path, dataset: NuScenesDataset, tmp_path: Path
) -> None:
    level = config(root, tmp_path, ref="ego").evaluation_set()
    for item in range(len(dataset)):
        one, other = dataset[item], level[item]
        row = int(dataset.row_numbers[item])
        ego_from_lidar = torch.tensor(dataset.index.ego_from_ref[row]).float()
        assert torch.equal(
            torch.tensor(level.index.ego_from_ref[row]), torch.eye(4, dtype=torch.float64)
        )
        moved = transform_boxes(ego_from_lidar, one.targets[0].boxes)
        places, whole = (boxes[:, :6] for boxes in (other.targets[0].boxes, moved))
        torch.testing.assert_close(places, whole, atol=1e-4, rtol=1e-5)
        # Headings and velocities are told over the ground of a frame, which the lidar's tilts.
        turned = wrap_angle(other.targets[0].boxes[:, 6] - moved[:, 6])
        assert turned.abs().max() < 1e-3
        velocities = other.targets[0].boxes[:, 7:], moved[:, 7:]
        torch.testing.assert_close(*velocities, atol=1e-2, rtol=0, equal_nan=True)
        here = one.rig.project(one.targets[0].boxes[None, :, :3])
        there = other.rig.project(other.targets[0].boxes[None, :, :3])
        near = here.depth > 1
        torch.testing.assert_close(there.pixels[near], here.pixels[near], atol=1e-2, rtol=1e-4)
        points, same = dataset.lidar_points(item), level.lidar_points(item)
        torch.testing.assert_close(
            same[:, :3], transform_points(ego_from_lidar, points[:, :3]), atol=1e-4, rtol=1e-5
        )
        assert torch.equal(points[:, 3:], same[:, 3:])


def test_both_frames_are_indexed_side_by_side(root: Path, tmp_path: Path) -> None:
    for ref in ("lidar", "ego", "lidar"):
        config(root, tmp_path, ref=ref).open_index()
    assert len(list(tmp_path.iterdir())) == 2
