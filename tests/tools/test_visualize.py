from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from det3d.data.nuscenes import NuScenesConfig
from det3d.data.nuscenes_index import NuScenesIndex, open_index
from det3d.evaluation.nuscenes import ground_truth_detections, result_boxes
from det3d.results.convert import convert
from det3d.results.nuscenes import write_submission
from detr2d.checkpoints.files import Origin, export_weights
from detr2d.config import load_experiment, to_json
from tests.helpers.result_frames import make_frame, write_result_file
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes
from tools import visualize

REAL_FRAME = Path(__file__).resolve().parents[2] / "../shared/real/nuscenes_frame"
CONFIG = """
from pathlib import Path
from det3d.data.nuscenes import NuScenesConfig
from det3d.systems.detr3d import DETR3DConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment

experiment = Experiment(
    system=DETR3DConfig(
        backbone=ResNetConfig(depth=18), channels=16, num_queries=12, num_layers=2, heads=2,
        hidden=16, rig="free", num_detections=8,
    ),
    data=NuScenesConfig(
        root=Path({root!r}), version="v1.0-mini", evaluation_split="mini_val", image_size=(32, 64)
    ),
)
"""
Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_nuscenes(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def index(root: Path) -> NuScenesIndex:
    return open_index(root, "v1.0-mini", root / "index")


@pytest.fixture
def run(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs the tool: exit code, lines of standard output, standard error."""

    def call(*arguments: str, database: Path | None = root) -> tuple[int, list[str], str]:
        where = ["--root", str(database)] if database is not None else []
        places = ["-o", str(tmp_path / "out"), "--index-dir", str(root / "index")]
        small = ["--camera-width", "96"]
        monkeypatch.setattr(sys, "argv", ["visualize.py", *where, *places, *small, *arguments])
        code = 0
        try:
            visualize.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out.split(), captured.err

    return call


def sample_token(index: NuScenesIndex, row: int) -> str:
    return str(index.sample_tokens[row], "utf-8")


def test_pictures_are_spread_over_the_database(run: Run) -> None:
    code, paths, _ = run("--count", "3")
    assert code == 0
    assert len(paths) == 3
    assert len({Path(path).name.split("_")[0] for path in paths}) == 3  # all scenes
    sizes = {Image.open(path).size for path in paths}
    assert len(sizes) == 1


def test_one_sample_with_lidar_makes_two_pictures(run: Run, index: NuScenesIndex) -> None:
    token = sample_token(index, 4)
    _, paths, _ = run("--sample", token, "--lidar")
    assert [Path(path).name.split("_", 1)[1] for path in paths] == [
        f"{token}.png",
        f"{token}_lidar.png",
    ]


def test_a_video_has_a_frame_for_every_key_frame_of_its_scene(run: Run) -> None:
    _, paths, _ = run("--split", "mini_train", "--video", "--fps", "2")
    assert [Path(path).name for path in paths] == ["scene-0061.mp4", "scene-0553.mp4"]
    frames = [imageio_ffmpeg.count_frames_and_secs(path)[0] for path in paths]
    assert frames == [3, 2]


def write_results(root: Path, index: NuScenesIndex, path: Path) -> Path:
    """Ground truth of mini_val as an official result file."""
    config = NuScenesConfig(
        root=root, version="v1.0-mini", evaluation_split="mini_val", index_dir=root / "index"
    )
    data = config.evaluation_set()
    data.image_size = (8, 8)
    results = {}
    for item in range(len(data)):
        scene = data[item]
        found = ground_truth_detections(scene)[0]
        results[scene.tokens[0]] = result_boxes(index, scene.tokens[0], found)
    write_submission(path, results)
    return path


def test_results_are_drawn_for_their_samples(
    run: Run, root: Path, index: NuScenesIndex, tmp_path: Path
) -> None:
    results = write_results(root, index, tmp_path / "results.json")
    _, with_results, _ = run("--results", str(results))
    assert [Path(path).name[:10] for path in with_results] == ["scene-0103"] * 2
    drawn = [np.asarray(Image.open(path)) for path in with_results]
    _, below_score, _ = run("--results", str(results), "--score", "1.5")
    without = [np.asarray(Image.open(path)) for path in below_score]
    assert all((a != b).any() for a, b in zip(drawn, without, strict=True))


def test_a_model_is_run_and_its_queries_are_drawn(run: Run, root: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(root=str(root)))
    experiment = load_experiment(config)
    classes = experiment.data.class_names()
    torch.manual_seed(0)
    weights = experiment.system.build(classes).state_dict()
    checkpoint = tmp_path / "model.safetensors"
    export_weights(checkpoint, weights, Origin(to_json(experiment), classes))
    arguments = ("--config", str(config), "--checkpoint", str(checkpoint), "--score", "0")
    code, paths, error = run(*arguments, "--count", "1", database=None)
    assert code == 0, error
    assert [Path(path).stem.split("_")[-1] for path in paths][1:] == ["queries"]
    assert all(Path(path).name.startswith("scene-0103") for path in paths)
    _, paths, _ = run(*arguments, "--count", "1", "--no-queries")
    assert len(paths) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--scene", "scene-0062"], "did you mean scene-0061"),
        (["--split", "mini_trian"], "did you mean mini_train"),
        (["--sample", "abc"], "no sample 'abc' in v1.0-mini"),
        (["--sample", "abc", "--scene", "x"], "expected one of --sample, --scene and --split"),
        (["--version", "v1.0-test"], "has no version 'v1.0-test'; found: v1.0-mini"),
        (["--count", "0"], "must be at least 1, got 0"),
        (["--config", "config.py"], "--config and --checkpoint go together"),
        (["--config", "none.py", "--checkpoint", "x"], "config none.py does not exist"),
        (["--results", "none.json"], "none.json"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_line(run: Run, arguments: list[str], message: str) -> None:
    code, paths, error = run(*arguments)
    assert code == 2
    assert paths == []
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is no JSON file"),
        ("[]", "is no nuScenes submission"),
        (json.dumps({"results": {"other": []}}), "has no sample"),
        (json.dumps({"results": {"TOKEN": [{"translation": [1, 2, 3]}]}}), "no detection boxes"),
    ],
)
def test_result_files_that_are_none_are_named(
    run: Run, index: NuScenesIndex, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(content.replace("TOKEN", sample_token(index, 0)))
    code, _, error = run("--results", str(path), "--sample", sample_token(index, 0))
    assert code == 2
    assert str(path) in error
    assert message in error


def test_a_missing_root_is_asked_for(run: Run) -> None:
    code, _, error = run(database=None)
    assert code == 2
    assert "--root is missing" in error


@pytest.mark.real
@pytest.mark.skipif(not REAL_FRAME.exists(), reason="the real frame is absent")
def test_the_real_frame_is_drawn_with_its_lidar_and_predictions(run: Run, tmp_path: Path) -> None:
    results = REAL_FRAME / "eval_ref/mini_train/pred_noisy.json"
    code, paths, error = run("--results", str(results), "--lidar", database=REAL_FRAME)
    assert code == 0, error
    assert len(paths) == 2


@pytest.mark.slow
def test_the_tool_starts_from_a_shell() -> None:
    tool = Path(visualize.__file__)
    done = subprocess.run(
        [sys.executable, str(tool), "--help"],
        cwd=tool.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--results" in done.stdout


def test_a_result_file_is_drawn_without_its_database(run: Run, tmp_path: Path) -> None:
    first = make_frame("a")
    path = write_result_file(tmp_path, first, make_frame("b", cameras=first.cameras[:4]))
    code, paths, error = run("--results", str(path), database=None)
    assert code == 0, error
    assert [Path(picture).name for picture in paths] == ["street_a.png", "street_b.png"]
    _, paths, _ = run("--results", str(path), "--sample", "a", "--score", "0.99", database=None)
    assert len(paths) == 1


def test_a_result_file_and_the_database_give_the_same_picture(
    run: Run, root: Path, index: NuScenesIndex, tmp_path: Path
) -> None:
    submission = write_results(root, index, tmp_path / "results_nusc.json")
    path = tmp_path / "results.json"
    place = {"root": root, "version": "v1.0-mini", "index_dir": root / "index"}
    convert(submission, path, select=None, **place)
    pictures = []
    for arguments, database in (
        (["--results", str(submission)], root),
        (["--results", str(path)], None),
    ):
        _, paths, _ = run(*arguments, "--count", "1", database=database)
        pictures.append(np.asarray(Image.open(paths[0])).astype(int))
    assert pictures[0].shape == pictures[1].shape
    assert np.mean(np.abs(pictures[0] - pictures[1]).max(-1) > 8) < 0.01


def test_a_video_is_made_of_a_result_file(run: Run, tmp_path: Path) -> None:
    path = write_result_file(tmp_path, make_frame("a"), make_frame("b"))
    _, paths, _ = run("--results", str(path), "--video", database=None)
    assert imageio_ffmpeg.count_frames_and_secs(paths[0])[0] == 2
