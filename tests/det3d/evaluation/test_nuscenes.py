import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import NuScenesEval
from nuscenes.eval.detection.utils import detection_name_to_rel_attributes

from det3d.data.nuscenes import NuScenesConfig
from det3d.data.nuscenes_index import DETECTION_CLASSES, NuScenesIndex
from det3d.data.toy_world import make_toy_nuscenes
from det3d.evaluation.nuscenes import (
    NuScenesEvaluator,
    ground_truth_detections,
    read_result_boxes,
    result_boxes,
)
from det3d.results.format import read_results
from det3d.results.nuscenes import ATTRIBUTES, CLASS_RANGES
from det3d.structures import SceneBatch
from detr2d.structures import Detections
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

VERSION = "v1.0-mini"
SHARED = Path(__file__).resolve().parents[3] / "../shared"
REAL = SHARED / "real/nuscenes_frame"
PARITY = SHARED / "parity/ops3d/nuscenes_format.npz"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real/nuscenes_frame")
needs_parity = pytest.mark.skipif(not PARITY.is_file(), reason="needs ../shared/parity/ops3d")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> NuScenesConfig:
    folder = tmp_path_factory.mktemp("tiny")
    return NuScenesConfig(
        root=write_tiny_nuscenes(folder / "db"),
        version=VERSION,
        evaluation_split="mini_train",
        image_size=(45, 80),
        index_dir=folder / "index",
    )


@pytest.fixture(scope="module")
def scenes(data: NuScenesConfig) -> list[SceneBatch]:
    return list(data.evaluation_set())


@pytest.fixture
def evaluator(data: NuScenesConfig, tmp_path: Path) -> NuScenesEvaluator:
    return data.evaluator(tmp_path / "evaluation")


def make_detections(boxes: torch.Tensor, label: int = 0) -> Detections:
    count = len(boxes)
    scores = torch.linspace(0.9, 0.1, count)
    return Detections(scores, torch.full((count,), label), boxes, torch.arange(count))


def box(x: float, y: float = 0.0, vx: float = 0.0) -> list[float]:
    return [x, y, 0, 4, 2, 1.5, 0, vx, 0]


def ground_truth(evaluator: NuScenesEvaluator, scenes: list[SceneBatch]) -> dict[str, list]:
    results: dict[str, list] = {}
    for scene in scenes:
        results |= evaluator.format(scene, ground_truth_detections(scene))
    return results


def test_ground_truth_told_in_the_ego_frame_scores_one_too(
    data: NuScenesConfig, tmp_path: Path
) -> None:
    level = replace(data, ref="ego")
    evaluator = level.evaluator(tmp_path / "evaluation")
    report = evaluator.summarize(ground_truth(evaluator, list(level.evaluation_set())))
    assert report.metrics["mAP"] == pytest.approx(1)


def test_ground_truth_scores_one_in_every_class(
    evaluator: NuScenesEvaluator, scenes: list[SceneBatch]
) -> None:
    report = evaluator.summarize(ground_truth(evaluator, scenes))
    assert report.metrics["mAP"] == pytest.approx(1)
    assert [report.metrics[f"AP/{name}"] for name in DETECTION_CLASSES] == pytest.approx([1] * 10)
    assert report.metrics["mATE"] < 1e-4
    assert report.metrics["mASE"] < 1e-4
    assert report.metrics["mAOE"] < 1e-3
    assert report.metrics["mAVE"] < 1e-2
    assert "NDS" in report.table and "mean" in report.table
    view = read_results(evaluator.output_dir / "results.json")
    assert [frame.token for frame in view.frames] == [scene.tokens[0] for scene in scenes]
    assert all(len(frame.detections) == len(frame.ground_truth) for frame in view.frames)


def test_the_numbers_are_those_of_the_unmodified_devkit(
    evaluator: NuScenesEvaluator, data: NuScenesConfig, scenes: list[SceneBatch], tmp_path: Path
) -> None:
    noise = torch.Generator().manual_seed(0)
    results: dict[str, list] = {}
    for scene in scenes:
        found = ground_truth_detections(scene)[0]
        shift = torch.randn(found.boxes.shape, generator=noise) * 0.4
        scores = torch.rand(len(found), generator=noise)
        noisy = replace(found, boxes=found.boxes + shift.clamp(-0.3, 1.5), scores=scores)
        results |= evaluator.format(scene, [noisy])
    report = evaluator.summarize(results)
    official = NuScenesEval(
        NuScenes(VERSION, str(data.root), verbose=False),
        config_factory("detection_cvpr_2019"),
        str(evaluator.output_dir / "results_nusc.json"),
        "mini_train",
        str(tmp_path / "official"),
        verbose=False,
    ).main(render_curves=False)
    ours = json.loads((evaluator.output_dir / "metrics_summary.json").read_text())
    assert 0.1 < report.metrics["mAP"] < 0.95
    assert report.metrics["mAP"] == official["mean_ap"]
    assert report.metrics["NDS"] == official["nd_score"]
    assert ours["tp_errors"] == official["tp_errors"]
    assert ours["mean_dist_aps"] == official["mean_dist_aps"]


def test_predictions_shifted_by_one_and_a_half_metres_pass_half_of_the_thresholds(
    evaluator: NuScenesEvaluator, scenes: list[SceneBatch]
) -> None:
    results = ground_truth(evaluator, scenes)
    for found in results.values():
        for entry in found:
            entry["translation"][0] += 1.5
    metrics = evaluator.summarize(results).metrics
    assert metrics["mAP"] == pytest.approx(0.5)
    assert metrics["mATE"] == pytest.approx(1.5, abs=1e-4)


def test_no_predictions_at_all_score_zero(
    evaluator: NuScenesEvaluator, scenes: list[SceneBatch]
) -> None:
    metrics = evaluator.summarize({scene.tokens[0]: [] for scene in scenes}).metrics
    assert metrics["mAP"] == 0
    assert metrics["NDS"] == 0


def test_a_subset_of_samples_is_judged_on_these_alone(
    evaluator: NuScenesEvaluator, scenes: list[SceneBatch]
) -> None:
    # The first key frame has no traffic cone with points: nine classes are left.
    report = evaluator.summarize(ground_truth(evaluator, scenes[:1]))
    assert report.metrics["mAP"] == pytest.approx(0.9)
    assert report.metrics["AP/traffic_cone"] == 0
    assert "1 samples" in report.table.splitlines()[0]


@pytest.mark.parametrize("results", [{}, {"unknown": []}])
def test_foreign_results_are_refused(evaluator: NuScenesEvaluator, results: dict) -> None:
    with pytest.raises(ValueError, match=f"results name {len(results)} samples"):
        evaluator.summarize(results)


def test_boxes_are_written_as_their_annotations(
    evaluator: NuScenesEvaluator, data: NuScenesConfig, scenes: list[SceneBatch]
) -> None:
    devkit = NuScenes(VERSION, str(data.root), verbose=False)
    scene = scenes[1]
    written = evaluator.format(scene, ground_truth_detections(scene))[scene.tokens[0]]
    tokens = devkit.get("sample", scene.tokens[0])["anns"]
    annotations = [devkit.get("sample_annotation", token) for token in tokens][:10]
    velocities = [devkit.box_velocity(row["token"])[:2] for row in annotations]
    assert len(written) == 10
    for name in ("translation", "size"):
        found = [entry[name] for entry in written]
        np.testing.assert_allclose(found, [row[name] for row in annotations], atol=2e-4)
    np.testing.assert_allclose([entry["velocity"] for entry in written], velocities, atol=1e-2)
    pairs = zip(written, annotations, strict=True)
    cosines = [abs(np.dot(entry["rotation"], row["rotation"])) for entry, row in pairs]
    assert min(cosines) > 0.999  # up to sign, and to the tilt that a yaw in ref cannot hold


def test_reading_results_gives_the_detections_back(
    data: NuScenesConfig, scenes: list[SceneBatch]
) -> None:
    index, scene = data.open_index(), scenes[2]
    found = ground_truth_detections(scene)[0]
    found = replace(found, scores=torch.linspace(0.9, 0.1, len(found)))
    again = read_result_boxes(index, scene.tokens[0], result_boxes(index, scene.tokens[0], found))
    assert torch.equal(again.labels, found.labels)
    torch.testing.assert_close(again.scores, found.scores)
    torch.testing.assert_close(again.boxes[:, :6], found.boxes[:, :6], atol=1e-4, rtol=0)
    turn = torch.remainder(again.boxes[:, 6] - found.boxes[:, 6] + torch.pi, 2 * torch.pi)
    torch.testing.assert_close(turn - torch.pi, torch.zeros(10), atol=2e-3, rtol=0)
    torch.testing.assert_close(again.boxes[:, 7:], found.boxes[:, 7:], atol=1e-2, rtol=0)


def test_empty_detections_are_written_and_read(
    data: NuScenesConfig, scenes: list[SceneBatch]
) -> None:
    index, token = data.open_index(), scenes[0].tokens[0]
    empty = make_detections(torch.zeros(0, 9))
    assert result_boxes(index, token, empty) == []
    assert read_result_boxes(index, token, []).boxes.shape == (0, 9)


@pytest.mark.parametrize("name", DETECTION_CLASSES)
def test_boxes_beyond_the_range_of_their_class_are_dropped(
    data: NuScenesConfig, scenes: list[SceneBatch], name: str
) -> None:
    index, token = data.open_index(), scenes[0].tokens[0]
    label, reach = DETECTION_CLASSES.index(name), CLASS_RANGES[name]
    # The range counts from the ego frame's origin, about 1 m behind the lidar along its y axis.
    near, far = [box(0, reach - 2.0), box(0, -reach + 2.0)], [box(0, reach + 1.0), box(reach, 9.0)]
    found = make_detections(torch.tensor(near + far), label)
    assert len(result_boxes(index, token, found)) == 2


def test_the_best_500_boxes_of_a_sample_are_kept(
    data: NuScenesConfig, scenes: list[SceneBatch]
) -> None:
    index, token = data.open_index(), scenes[0].tokens[0]
    boxes = torch.tensor([box(5)]).repeat(700, 1)
    found = make_detections(boxes).select(torch.randperm(700))
    scores = [entry["detection_score"] for entry in result_boxes(index, token, found)]
    assert len(scores) == 500
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == pytest.approx(float(torch.linspace(0.9, 0.1, 700)[499]))


@pytest.mark.parametrize(
    ("name", "speed", "attribute"),
    [
        ("car", 0.3, "vehicle.moving"),
        ("car", 0.1, "vehicle.parked"),
        ("bus", 0.1, "vehicle.stopped"),
        ("trailer", 0.1, "vehicle.parked"),
        ("bicycle", -0.3, "cycle.with_rider"),
        ("motorcycle", 0.1, "cycle.without_rider"),
        ("pedestrian", 0.3, "pedestrian.moving"),
        ("pedestrian", 0.0, "pedestrian.standing"),
        ("barrier", 3.0, ""),
        ("traffic_cone", 0.0, ""),
    ],
)
def test_attributes_follow_the_speed(
    data: NuScenesConfig, scenes: list[SceneBatch], name: str, speed: float, attribute: str
) -> None:
    found = make_detections(torch.tensor([box(5, vx=speed)]), label=DETECTION_CLASSES.index(name))
    written = result_boxes(data.open_index(), scenes[0].tokens[0], found)
    assert written[0]["attribute_name"] == attribute


@pytest.mark.parametrize("name", DETECTION_CLASSES)
def test_ranges_and_attributes_are_those_of_the_devkit(name: str) -> None:
    assert CLASS_RANGES[name] == config_factory("detection_cvpr_2019").class_range[name]
    assert set(ATTRIBUTES[name]) <= set(detection_name_to_rel_attributes(name) or [""])


def test_detections_that_are_not_finite_are_refused(
    data: NuScenesConfig, scenes: list[SceneBatch]
) -> None:
    found = make_detections(torch.tensor([box(float("nan"))]))
    with pytest.raises(ValueError, match=f"sample {scenes[0].tokens[0]} has detections"):
        result_boxes(data.open_index(), scenes[0].tokens[0], found)


def test_unknown_velocities_become_zero_in_ground_truth_detections(
    scenes: list[SceneBatch],
) -> None:
    targets = scenes[0].targets[0]
    boxes = targets.boxes.clone()
    boxes[:, 7:] = torch.nan
    unknown = replace(scenes[0], targets=(replace(targets, boxes=boxes),))
    assert (ground_truth_detections(unknown)[0].boxes[:, 7:] == 0).all()
    with pytest.raises(ValueError, match="have no targets"):
        ground_truth_detections(replace(scenes[0], targets=None))


def test_the_submission_says_that_it_uses_cameras_only(
    evaluator: NuScenesEvaluator, scenes: list[SceneBatch]
) -> None:
    evaluator.summarize(ground_truth(evaluator, scenes[:1]))
    submission = json.loads((evaluator.output_dir / "results_nusc.json").read_text())
    used = [name for name, value in submission["meta"].items() if value]
    assert used == ["use_camera"]
    assert sorted(path.name for path in evaluator.output_dir.iterdir()) == [
        "metrics_details.json", "metrics_summary.json", "results.json", "results_nusc.json",
    ]  # fmt: skip


def test_toy_ground_truth_scores_one_in_every_class_present(tmp_path: Path) -> None:
    root = make_toy_nuscenes(
        tmp_path / "toy",
        seed=7,
        image_size=(48, 80),
        frames_per_scene=4,
        scenes_per_split=(2, 1),
        workers=1,
        coco=False,
        progress=False,
    )
    toy = NuScenesConfig(
        root=root,
        version=VERSION,
        evaluation_split=("mini_train", "mini_val"),
        image_size=(48, 80),
        index_dir=tmp_path / "index",
    )
    scenes, evaluator = list(toy.evaluation_set()), toy.evaluator(tmp_path / "evaluation")
    metrics = evaluator.summarize(ground_truth(evaluator, scenes)).metrics
    results = json.loads((evaluator.output_dir / "results_nusc.json").read_text())["results"]
    present = {entry["detection_name"] for found in results.values() for entry in found}
    assert len(scenes) == 12 and len(present) >= 5
    found = {name: metrics[f"AP/{name}"] for name in DETECTION_CLASSES}
    assert found == pytest.approx({name: float(name in present) for name in DETECTION_CLASSES})


@pytest.fixture
def real(tmp_path: Path) -> NuScenesConfig:
    return NuScenesConfig(
        root=REAL, version=VERSION, evaluation_split="mini_train", index_dir=tmp_path / "index"
    )


@pytest.mark.real
@needs_real
def test_real_ground_truth_scores_as_the_reference(real: NuScenesConfig, tmp_path: Path) -> None:
    reference = json.loads((REAL / "eval_ref/mini_train/official_metrics_gt.json").read_text())
    evaluator = real.evaluator(tmp_path / "evaluation")
    metrics = evaluator.summarize(ground_truth(evaluator, list(real.evaluation_set()))).metrics
    found = {name: metrics[f"AP/{name}"] for name in DETECTION_CLASSES}
    assert found == pytest.approx(reference["mean_dist_aps"])
    assert metrics["mAP"] == pytest.approx(0.5)
    for ours, theirs in (("mATE", "trans_err"), ("mASE", "scale_err"), ("mAOE", "orient_err")):
        assert metrics[ours] == pytest.approx(reference["tp_errors"][theirs], abs=1e-3)


@pytest.mark.real
@needs_real
@pytest.mark.parametrize("name", ["gt", "noisy"])
def test_reference_predictions_score_as_published(
    real: NuScenesConfig, tmp_path: Path, name: str
) -> None:
    folder = REAL / "eval_ref/mini_train"
    reference = json.loads((folder / f"official_metrics_{name}.json").read_text())
    results = json.loads((folder / f"pred_{name}.json").read_text())["results"]
    metrics = real.evaluator(tmp_path / "evaluation").summarize(results).metrics
    assert metrics["mAP"] == pytest.approx(reference["mean_ap"], abs=1e-9)
    assert metrics["NDS"] == pytest.approx(reference["nd_score"], abs=1e-9)
    assert metrics["mAAE"] == pytest.approx(reference["tp_errors"]["attr_err"], abs=1e-9)


@pytest.mark.parity
@needs_parity
@pytest.mark.real
@needs_real
def test_official_formatting_of_detections(real: NuScenesConfig) -> None:
    case = np.load(PARITY)
    index: NuScenesIndex = real.open_index()
    assert [str(name) for name in case["classes"]] == list(DETECTION_CLASSES)
    old = torch.from_numpy(case["boxes_bottom"])  # x, y, z of the bottom, w, l, h, yaw, vx, vy
    size, yaw = old[:, [4, 3, 5]], -old[:, 6:7] - torch.pi / 2
    centre = torch.cat([old[:, :2], old[:, 2:3] + old[:, 5:6] / 2], dim=1)
    found = Detections(
        scores=torch.from_numpy(case["scores"]),
        labels=torch.from_numpy(case["labels"]),
        boxes=torch.cat([centre, size, yaw, old[:, 7:]], dim=1),
        queries=torch.arange(len(old)),
    )
    written = result_boxes(index, str(index.sample_tokens[0], "utf-8"), found)
    order = np.argsort(-case["score"], kind="stable")
    assert [entry["detection_name"] for entry in written] == case["name"][order].tolist()
    assert [entry["attribute_name"] for entry in written] == case["attr"][order].tolist()
    for name in ("translation", "size", "velocity"):
        np.testing.assert_allclose([e[name] for e in written], case[name][order], atol=1e-4)
    quaternions = np.array([entry["rotation"] for entry in written])
    cosines = np.abs((quaternions * case["rotation"][order]).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
