import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from detr2d.log import read_log
from tests.helpers.tiny_coco import write_tiny_coco
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes
from tests.helpers.toy_experiment import write_config
from tests.tools.test_explain import IMAGE_CONFIG
from tests.tools.test_visualize import CONFIG as SCENE_CONFIG
from tools import train

ROOT = Path(__file__).resolve().parents[2]


def run(*words: object, processes: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a tool as a user does, from the root of the repository."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *(launcher if processes else []), *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def main(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
    train.main()


def test_the_tool_trains_and_prints_where_the_weights_are(tmp_path: Path) -> None:
    done = run("tools/train.py", write_config(tmp_path), "--train.lr", "0.02")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"weights: {tmp_path}/run/model.safetensors\n"


def test_the_tool_stops_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path)
    main(monkeypatch, config, "--stop-after", 5)
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["step"] == 4  # 5 waits for its line
    main(monkeypatch, config, "--resume")
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["step"] == 12


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--train.lrr", "3"], "perhaps you meant --train.lr FLOAT"),
        (["--train.epochs", "many"], "expected --train.epochs INT"),
        (["--data.root", "nowhere"], "data.root nowhere holds no points.json"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(monkeypatch, write_config(tmp_path), *words)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("error: ")
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "write_data", "words", "figures"),
    [
        (SCENE_CONFIG, write_tiny_nuscenes, ["--data.training-split", "mini_train"], "mAP NDS"),
        (IMAGE_CONFIG, write_tiny_coco, [], "AP AP50 AP75"),
    ],
    ids=["scene", "image"],
)
def test_a_log_can_hold_the_official_figures_of_both_worlds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    write_data: Callable[[Path], Path],
    words: list[str],
    figures: str,
) -> None:
    config = tmp_path / "config.py"
    config.write_text(text.format(root=str(write_data(tmp_path / "data"))))
    settings = ["--train.epochs", 1, "--train.evaluate-every", 1, "--train.workers", 0]
    main(monkeypatch, config, "--work-dir", tmp_path / "run", *settings, *words)
    found = [r["metrics"] for r in read_log(tmp_path / "run" / "log.jsonl") if "metrics" in r]
    assert len(found) == 1
    assert set(figures.split()) <= set(found[0])
    assert not any("/" in name for name in found[0])


def test_a_missing_config_ends_in_one_line() -> None:
    done = run("tools/train.py", "configs/nothing.py")
    assert done.returncode == 2
    assert done.stderr == (
        "error: config configs/nothing.py does not exist: expected a Python file\n"
    )


def test_a_loss_that_is_not_finite_keeps_its_traceback_and_can_be_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("PointSystem()", "PointSystem(poison='point3')"))
    with pytest.raises(FloatingPointError, match="y is nan at step") as error:
        main(monkeypatch, config)
    file = str(error.value).split("--replay ")[1]
    with pytest.raises(SystemExit) as stop:
        main(monkeypatch, config, "--replay", file)
    assert stop.value.code == 1
    assert "y = nan, not finite" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch_and_resume(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    two = ["tools/train.py", config, "--train.batch-size", 2]
    for words in (
        ["--work-dir", tmp_path / "two"],
        ["--work-dir", tmp_path / "parts", "--stop-after", 5],
        ["--work-dir", tmp_path / "parts", "--resume"],
    ):
        done = run(*two, *words, processes=2)
        assert done.returncode == 0, done.stderr
    assert run("tools/train.py", config).returncode == 0
    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in ("two", "parts")}
    torch.testing.assert_close(weights["two"], weights["parts"], rtol=0, atol=0)
    alone = load_file(tmp_path / "run" / "model.safetensors")
    torch.testing.assert_close(weights["two"], alone, rtol=1e-4, atol=1e-6)
    assert [record["step"] for record in read_log(tmp_path / "parts" / "log.jsonl")] == [
        *(2, 4, 6, 8, 10, 12)
    ]
