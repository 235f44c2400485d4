"""The command that runs a detector on image files."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.fixed_boxes import write_fixed_boxes
from tests.helpers.tiny_coco import write_tiny_coco

Run = Callable[..., tuple[int, list[str], str]]

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
from pathlib import Path
from tests.helpers.fixed_boxes import write_fixed_boxes
experiment = write_fixed_boxes(Path("tiny"), Path("run"))[0]
"""


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a tool in the folder: exit code, printed lines and error text."""

    def call(tool: str, *arguments: str) -> tuple[int, list[str], str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [tool, *arguments])
        code = 0
        try:
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out.split(), printed.err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("predict")
    write_fixed_boxes(write_tiny_coco(found / "tiny"), found / "run")
    (found / "config.py").write_text(CONFIG)
    return found


def test_the_tool_predicts_and_prints_its_files(run: Run, folder: Path) -> None:
    images = ["tiny/images/000007.png", "tiny/images/000003.png"]
    code, paths, _ = run(
        "predict.py", "config.py", "run/model.safetensors", *images, "-o", "o", "--score=.1"
    )
    assert code == 0
    assert paths == ["o/predictions.json", "o/000007.png", "o/000003.png"]
    assert all((folder / name).is_file() for name in paths)


def test_the_picture_tool_draws_images_of_a_2d_config(run: Run, folder: Path) -> None:
    model = ["--config", "config.py", "--checkpoint", "run/model.safetensors"]
    code, paths, _ = run("visualize.py", *model, "--sample", "12", "-o", "p")
    assert (code, paths) == (0, ["p/12.png"]) and (folder / "p/12.png").is_file()
    code, paths, _ = run("visualize.py", "--config", "config.py", "--count", "2", "-o", "q")
    assert (code, paths) == (0, ["q/7.png", "q/12.png"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict.py", "config.py", "run/model.safetensors", "none.jpg"], "none.jpg is missing"),
        (["predict.py", "config.py", "none.safetensors", "tiny/images/000003.png"], "none.safe"),
        (["visualize.py", "--config", "config.py", "--sample", "99"], "no image '99' in"),
        (["visualize.py", "--config", "config.py", "--video"], "--video means nothing"),
        (["visualize.py", "--config", "config.py", "--root", "x"], "instances.json is missing"),
    ],
)
def test_mistakes_end_in_one_line(run: Run, arguments: list[str], message: str) -> None:
    code, paths, error = run(*arguments)
    assert (code, paths) == (2, [])
    assert error.startswith("error: ") and message in error
    assert len(error.strip().splitlines()) == 1
