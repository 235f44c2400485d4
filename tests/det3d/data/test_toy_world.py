import hashlib
import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.common.loaders import load_gt
from nuscenes.eval.detection.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from pycocotools.coco import COCO
from scipy.spatial.transform import Rotation

from det3d.data.toy_rig import CAMERAS, LIDAR, SENSORS, quaternion_to_matrix
from det3d.data.toy_scene import build_scene
from det3d.data.toy_traffic import DETECTION_CLASSES
from det3d.data.toy_world import make_toy_nuscenes, plan_world

REAL_FRAME = Path(__file__).resolve().parents[3] / "../shared/real/nuscenes_frame"
SMALL = {"image_size": (96, 160), "frames_per_scene": 3, "scenes_per_split": (1, 1)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_toy_nuscenes(
        tmp_path_factory.mktemp("toy") / "world", seed=7, workers=0, progress=False, **SMALL
    )


@pytest.fixture(scope="module")
def nusc(root):
    return NuScenes("v1.0-mini", str(root), verbose=False)


@pytest.fixture(scope="module")
def scenes():
    plans = plan_world("v1.0-mini", 7, 3, (1, 1))
    return {plan.name: build_scene(plan) for plan in plans}


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def samples_of(nusc, scene):
    token = nusc.get("scene", nusc.field2token("scene", "name", scene)[0])["first_sample_token"]
    while token:
        sample = nusc.get("sample", token)
        yield sample
        token = sample["next"]


def test_workers_write_the_same_bytes(root, tmp_path):
    again = make_toy_nuscenes(tmp_path / "again", seed=7, workers=2, progress=False, **SMALL)
    assert digests(again) == digests(root)


def test_another_seed_writes_another_world(root, tmp_path):
    settings = {**SMALL, "frames_per_scene": 1, "scenes_per_split": (0, 1)}
    other = make_toy_nuscenes(
        tmp_path / "b", seed=8, workers=0, progress=False, coco=False, **settings
    )
    assert not set(digests(other).values()) & {
        digest for name, digest in digests(root).items() if name.startswith("samples")
    }
    assert not (other / "coco").exists()


def test_scenes_carry_official_names_and_both_splits(nusc):
    assert [scene["name"] for scene in nusc.scene] == ["scene-0061", "scene-0103"]


def test_lidar_counts_equal_the_devkits_box_test(nusc):
    checked = 0
    for sample in nusc.sample:
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            row = nusc.get("sample_annotation", box.token)
            assert points_in_box(box, points).sum() == row["num_lidar_pts"], row["category_name"]
            checked += row["num_lidar_pts"] > 0
    assert checked > 30


def test_velocities_are_those_of_the_simulation(nusc, scenes):
    moving = 0
    for name, scene in scenes.items():
        first, middle, last = samples_of(nusc, name)
        truth = {}
        for actor in scene.actors:
            before, now, after = scene.to_global(actor.motion.poses(scene.times))
            truth[tuple(now[:2].round(2))] = after[:2] - before[:2]
        for token in middle["anns"]:
            row = nusc.get("sample_annotation", token)
            if row["prev"] and row["next"]:
                key = tuple(np.array(row["translation"][:2]).round(2))
                velocity = nusc.box_velocity(token)[:2]
                np.testing.assert_allclose(velocity, truth[key], atol=1e-3)
                moving += np.linalg.norm(velocity) > 1
        assert last["prev"] == middle["token"] and first["prev"] == ""
    assert moving > 5


def test_each_sensor_has_its_own_time_and_pose(nusc, scenes):
    for name, scene in scenes.items():
        for time, sample in zip(scene.times, samples_of(nusc, name), strict=True):
            for sensor in SENSORS:
                record = nusc.get("sample_data", sample["data"][sensor.channel])
                pose = nusc.get("ego_pose", record["ego_pose_token"])
                assert record["timestamp"] - sample["timestamp"] == round(sensor.delay * 1e6)
                x, y, yaw = scene.to_global(scene.ego.poses(time + sensor.delay))
                np.testing.assert_allclose(pose["translation"], (x, y, 0), atol=1e-4)
                matrix = quaternion_to_matrix(pose["rotation"])
                np.testing.assert_allclose(matrix[:2, 0], (np.cos(yaw), np.sin(yaw)), atol=1e-6)


def test_links_counts_and_vocabulary_are_those_of_the_benchmark(nusc):
    assert len(nusc.category) == 23 and len(nusc.attribute) == 8 and len(nusc.visibility) == 4
    assert {row["visibility_token"] for row in nusc.sample_annotation} <= set("1234")
    for instance in nusc.instance:
        token, count = instance["first_annotation_token"], 0
        while token:
            row, count = nusc.get("sample_annotation", token), count + 1
            last, token = token, row["next"]
        assert last == instance["last_annotation_token"] and count == instance["nbr_annotations"]
    for sample in nusc.sample:
        assert set(sample["data"]) == {sensor.channel for sensor in SENSORS}


def test_the_ego_drives_on_the_map_mask(nusc):
    for scene in nusc.scene:
        log = nusc.get("log", scene["log_token"])
        mask = next(m for m in nusc.map if log["token"] in m["log_tokens"])["mask"]
        for sample in samples_of(nusc, scene["name"]):
            record = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
            x, y, _ = nusc.get("ego_pose", record["ego_pose_token"])["translation"]
            assert mask.is_on_mask(x, y)[0]
            assert not mask.is_on_mask(x + 5000, y)[0]


def test_the_devkit_draws_a_sample(nusc, tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    nusc.render_sample_data(
        nusc.sample[0]["data"]["CAM_FRONT"], out_path=str(tmp_path / "a.png"), verbose=False
    )
    nusc.render_sample_data(
        nusc.sample[0]["data"]["LIDAR_TOP"], out_path=str(tmp_path / "b.png"), verbose=False
    )
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert (tmp_path / "b.png").stat().st_size > 5000


@pytest.mark.parametrize("split", ["mini_train", "mini_val"])
def test_ground_truth_as_prediction_is_perfect_for_every_class(nusc, tmp_path, split):
    truth = load_gt(nusc, split, DetectionBox)
    results = {token: [] for token in truth.sample_tokens}
    for token in truth.sample_tokens:
        for box in truth[token]:
            row = {**box.serialize(), "detection_score": 1.0}
            row["velocity"] = np.nan_to_num(row["velocity"]).tolist()
            results[token].append(row)
    sources = ("use_camera", "use_lidar", "use_radar", "use_map", "use_external")
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"meta": dict.fromkeys(sources, False), "results": results}))
    config = config_factory("detection_cvpr_2019")
    metrics, _ = DetectionEval(
        nusc, config, str(path), split, str(tmp_path), verbose=False
    ).evaluate()
    scores = metrics.serialize()["mean_dist_aps"]
    present = set()
    for token in truth.sample_tokens:
        ego = np.array(ego_position(nusc, token))
        for box in truth[token]:
            distance = np.linalg.norm((np.array(box.translation) - ego)[:2])
            if box.num_pts > 0 and distance < config.class_range[box.detection_name]:
                present.add(box.detection_name)
    assert len(present) >= 8
    assert {name: scores[name] for name in present} == pytest.approx(dict.fromkeys(present, 1.0))


def ego_position(nusc, sample_token):
    data = nusc.get("sample", sample_token)["data"]["LIDAR_TOP"]
    return nusc.get("ego_pose", nusc.get("sample_data", data)["ego_pose_token"])["translation"]


def test_coco_masks_boxes_and_areas_agree(root, capsys):
    coco = COCO(str(root / "coco/annotations/instances_mini_train.json"))
    assert [c["name"] for c in coco.loadCats(range(1, 11))] == list(DETECTION_CLASSES)
    assert len(coco.imgs) == 18 and min(coco.anns) == 1
    for image in coco.imgs.values():
        pixels = cv2.imread(str(root / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
        covered = np.zeros(pixels.shape[:2], int)
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation)
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (columns.min(), rows.min()) == (x, y)
            assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)
            assert mask.sum() == annotation["area"]
            covered += mask
        assert covered.max(initial=0) <= 1


def test_panoptic_pictures_agree_with_their_lists_and_the_masks(root, capsys):
    content = json.loads((root / "coco/annotations/panoptic_mini_val.json").read_text())
    coco = COCO(str(root / "coco/annotations/instances_mini_val.json"))
    is_thing = {c["id"]: c["isthing"] for c in content["categories"]}
    for entry in content["annotations"]:
        picture = cv2.imread(str(root / "coco/panoptic" / entry["file_name"])).astype(int)
        ids = picture[..., 2] + 256 * picture[..., 1] + 65536 * picture[..., 0]
        areas = {s["id"]: s["area"] for s in entry["segments_info"]}
        found = dict(zip(*(v.tolist() for v in np.unique(ids, return_counts=True)), strict=True))
        found.pop(0, None)
        assert found == areas
        things = sorted(s["area"] for s in entry["segments_info"] if is_thing[s["category_id"]])
        assert things == sorted(a["area"] for a in coco.imgToAnns[entry["image_id"]])
        assert any(not is_thing[s["category_id"]] for s in entry["segments_info"])


def test_a_complete_world_is_kept_and_everything_else_is_refused(root, tmp_path):
    before = (root / "v1.0-mini/sample.json").stat().st_mtime_ns
    make_toy_nuscenes(root, seed=7, workers=0, progress=False, **SMALL)
    assert (root / "v1.0-mini/sample.json").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="seed is 7, asked for 9"):
        make_toy_nuscenes(root, seed=9, workers=0, progress=False, **SMALL)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="no toy world"):
        make_toy_nuscenes(tmp_path, workers=0, progress=False, **SMALL)


def test_an_interrupted_world_is_begun_anew(tmp_path, monkeypatch):
    settings = {**SMALL, "frames_per_scene": 1, "scenes_per_split": (1, 0), "coco": False}
    with monkeypatch.context() as patch:
        patch.setattr("det3d.data.toy_world._write_tables", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_toy_nuscenes(tmp_path / "w", workers=0, progress=False, **settings)
    assert not (tmp_path / "w").exists()
    make_toy_nuscenes(tmp_path / "w", workers=0, progress=False, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"version": "v1.0-test"}, "version must be"), ({"frames_per_scene": 0}, "frames_per_scene"),
     ({"scenes_per_split": (9, 0)}, "8 scene names, 9"),
     ({"scenes_per_split": (0, 0)}, "one scene"),
     ({"image_size": (8, 160)}, "at least 32")],
)  # fmt: skip
def test_settings_out_of_range_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make_toy_nuscenes(tmp_path / "w", progress=False, **{**SMALL, **settings})


def test_official_names_of_the_full_version_are_available():
    plans = plan_world("v1.0-trainval", 0, 2, (3, 2))
    assert [plan.split for plan in plans] == ["train"] * 3 + ["val"] * 2
    assert plans[0].name.startswith("scene-")


def test_the_rig_is_rigid_and_scales_with_the_image():
    for sensor in SENSORS:
        matrix = sensor.ego_from_sensor
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        w, x, y, z = sensor.rotation
        expected = Rotation.from_quat([x, y, z, w]).as_matrix()
        np.testing.assert_allclose(matrix, expected, atol=1e-9)
    scaled, full = (CAMERAS[0].intrinsics(size) for size in ((450, 400), (900, 1600)))
    np.testing.assert_allclose(scaled, np.diag([0.25, 0.5, 1.0]) @ full)


@pytest.mark.real
@pytest.mark.skipif(not REAL_FRAME.is_dir(), reason="needs the real frame in ../shared/real")
def test_the_rig_is_the_real_one():
    folder = REAL_FRAME / "v1.0-mini"
    channels = {r["token"]: r["channel"] for r in json.loads((folder / "sensor.json").read_text())}
    rows = json.loads((folder / "calibrated_sensor.json").read_text())
    real = {channels[row["sensor_token"]]: row for row in rows}
    for sensor in (*CAMERAS, LIDAR):
        row = real[sensor.channel]
        np.testing.assert_allclose(sensor.translation, row["translation"], atol=1e-4)
        np.testing.assert_allclose(sensor.rotation, row["rotation"], atol=1e-4)
        if row["camera_intrinsic"]:
            np.testing.assert_allclose(
                sensor.intrinsics((900, 1600)), row["camera_intrinsic"], rtol=1e-5, atol=1e-2
            )


def test_key_frames_can_lie_further_apart() -> None:
    (plan,) = plan_world("v1.0-trainval", 0, 4, (1, 0), frame_period=5.0)
    assert plan.duration == 20.0
    assert build_scene(plan).times.tolist() == [0.0, 5.0, 10.0, 15.0]
    with pytest.raises(ValueError, match="frame_period > 0"):
        plan_world("v1.0-trainval", 0, 4, (1, 0), frame_period=0.0)


def test_a_balanced_world_has_more_of_the_rare_classes() -> None:
    def share(balanced: bool) -> float:
        plans = plan_world("v1.0-trainval", 3, 4, (8, 0), frame_period=5.0, balanced=balanced)
        names = [actor.name for plan in plans for actor in build_scene(plan).actors]
        return sum(name not in ("car", "pedestrian") for name in names) / len(names)

    assert share(balanced=True) > 1.3 * share(balanced=False)


def test_a_world_made_before_a_setting_had_a_name_is_kept(tmp_path) -> None:
    make = partial(
        make_toy_nuscenes, tmp_path / "world", image_size=(32, 56), frames_per_scene=1,
        scenes_per_split=(1, 0), workers=0, progress=False,
    )  # fmt: skip
    marker = make() / "toy_world.json"
    settings = json.loads(marker.read_text())
    del settings["balanced"]
    marker.write_text(json.dumps(settings))
    make()
    assert json.loads(marker.read_text()) == settings
    with pytest.raises(FileExistsError, match="balanced is False, asked for True"):
        make(balanced=True)
