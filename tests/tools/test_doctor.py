"""The doctor as a command: targets of every kind, exit codes, and files."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers.findings import edit
from tests.helpers.tiny_coco import write_tiny_coco
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes
from tests.helpers.toy_experiment import write_config
from tools import doctor

COCO = """
from pathlib import Path
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment, TrainConfig
from detr2d.data.coco import CocoConfig
from detr2d.systems.detr import DETRConfig
from detr2d.data.transforms import scaled_resolution
from detr2d.transformer import TransformerConfig

experiment = Experiment(
    system=DETRConfig(
        backbone=ResNetConfig(depth=10, widths=(4, 4, 8, 8), out_stages=(4,)),
        transformer=TransformerConfig(
            channels=16, heads=2, hidden=16, encoder_layers=1, decoder_layers=1, num_queries=5
        ),
    ),
    data=CocoConfig(
        root=Path({root!r}), training_images="images", training_annotations="instances.json",
        evaluation_images="copies", evaluation_annotations="val.json",
        resolution=scaled_resolution(64),
    ),
    train=TrainConfig(batch_size=2, workers=0),
)
"""
NUSCENES = """
from pathlib import Path
from det3d.data.nuscenes import NuScenesConfig
from det3d.systems.detr3d import DETR3DConfig
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment

experiment = Experiment(
    system=DETR3DConfig(backbone=ResNetConfig(depth=10, widths=(8, 8, 8, 8)), rig="free"),
    data=NuScenesConfig(
        root=Path({root!r}), version="v1.0-mini", training_split="mini_train",
        evaluation_split="mini_val", image_size=(45, 80), index_dir=Path({index!r}),
    ),
)
"""


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str | Path
) -> tuple[int, str]:
    """Exit code, and everything that was printed."""
    monkeypatch.setattr(sys, "argv", ["doctor.py", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        doctor.main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out + said.err


def test_a_clean_folder_exits_with_zero_and_a_broken_one_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_tiny_coco(tmp_path / "tiny")
    code, said = run(monkeypatch, capsys, root)
    assert code == 0 and said.splitlines()[-1].startswith("0 errors, 0 warnings")
    (root / "images/000007.png").unlink()
    code, said = run(monkeypatch, capsys, root, "--json", tmp_path / "found.json")
    assert code == 1 and "image-missing" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert found[0].keys() == {"severity", "kind", "where", "message", "advice"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing"], "nothing does not exist: expected a config, data set, checkpoint"),
        (["."], ". is no data set: expected VERSION/sample.json"),
        (["none.py"], "config none.py does not exist"),
        (["x.json", "--root", "."], "--version is missing: . has none"),
    ],
)
def test_mistakes_end_in_one_line(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_text('{"results": {}}')
    code, said = run(monkeypatch, capsys, *words)
    assert code == 2
    assert said.startswith("error: ") and says in said and said.count("\n") == 1


@pytest.fixture
def coco_config(tmp_path: Path) -> Path:
    root = write_tiny_coco(tmp_path / "tiny")
    content = json.loads((root / "instances.json").read_text())
    image = content["images"][2]
    rows = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    (root / "val.json").write_text(json.dumps(content | {"images": [image], "annotations": rows}))
    shutil.copytree(root / "images", root / "copies")
    config = tmp_path / "config.py"
    config.write_text(COCO.format(root=str(root)))
    return config


def test_a_config_whose_splits_share_an_image_is_an_error(
    coco_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(monkeypatch, capsys, coco_config)
    assert code == 1 and "leakage" in said and "1 error," in said
    root = coco_config.with_name("tiny")
    edit(root / "instances.json", lambda c: c["images"].pop(2) and None)
    edit(root / "instances.json", lambda c: [c["annotations"].pop() for _ in range(2)] and None)
    code, said = run(monkeypatch, capsys, coco_config, "--plan")
    assert code == 0 and "peak memory: predicted" in said and "train.accumulate 1" in said
    code, said = run(monkeypatch, capsys, coco_config, "--data.root", "elsewhere")
    assert code == 1 and "file-missing" in said


def test_a_driving_config_is_judged_by_its_splits_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, config = write_tiny_nuscenes(tmp_path / "tiny"), tmp_path / "config.py"
    config.write_text(NUSCENES.format(root=str(root), index=str(tmp_path / "index")))
    code, said = run(monkeypatch, capsys, config)
    assert code == 0, said
    code, said = run(monkeypatch, capsys, config, "--data.evaluation-split", "mini_train")
    assert code == 1 and "samples of training that are evaluated too (5)" in said
    code, said = run(monkeypatch, capsys, config, "--data.cameras", "CAM_SIDE")
    assert code == 1 and "no camera CAM_SIDE" in said


def test_only_the_samples_of_the_chosen_splits_can_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One root with two versions of the same scenes, as nuScenes' mini and trainval are."""
    root, config = write_tiny_nuscenes(tmp_path / "tiny"), tmp_path / "config.py"
    shutil.copytree(root / "v1.0-mini", root / "custom")
    parts = {"mine": ["scene-0061"], "mini_val": ["scene-0103"]}
    (root / "custom/splits.json").write_text(json.dumps(parts))
    config.write_text(NUSCENES.format(root=str(root), index=str(tmp_path / "index")))
    words = (config, "--data.training-version", "custom", "--data.training-split")
    code, said = run(monkeypatch, capsys, *words, "mine")
    assert code == 0, said
    code, said = run(monkeypatch, capsys, *words, "mini_val")
    assert code == 1 and "samples of training that are evaluated too (2)" in said


def first_files(root: Path, scene: str) -> list[str]:
    """The camera files of the first sample of a scene."""
    scenes, data = (
        json.loads((root / f"v1.0-mini/{table}.json").read_text())
        for table in ("scene", "sample_data")
    )
    sample = next(row["first_sample_token"] for row in scenes if row["name"] == scene)
    return [r["filename"] for r in data if r["sample_token"] == sample and "CAM_" in r["filename"]]


def test_a_picture_of_another_database_leaks_though_its_token_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, config = write_tiny_nuscenes(tmp_path / "tiny"), tmp_path / "config.py"
    other = write_tiny_nuscenes(tmp_path / "other", scenes={"scene-0061": 3})
    config.write_text(NUSCENES.format(root=str(root), index=str(tmp_path / "index")))
    words = (config, "--data.training-root", other)
    code, said = run(monkeypatch, capsys, *words)
    assert code == 0, said
    shutil.copy(
        root / first_files(root, "scene-0103")[0], sorted(other.glob("samples/CAM_FRONT/*"))[0]
    )
    code, said = run(monkeypatch, capsys, *words)
    assert code == 1 and "images of training that are evaluated too (1)" in said


def test_a_plan_that_errors_prevent_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    (tmp_path / "data/points.json").unlink()
    code, said = run(monkeypatch, capsys, config, "--plan")
    assert code == 1 and "--plan measured nothing: the errors come first" in said


def test_the_overlay_of_several_versions_wants_one_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_tiny_nuscenes(tmp_path / "tiny", scenes={"scene-0061": 2})
    shutil.copytree(root / "v1.0-mini", root / "v1.0-other")
    code, said = run(monkeypatch, capsys, root, "--overlay", tmp_path / "overlay")
    assert code == 2 and f"--version is missing: {root} has v1.0-mini, v1.0-other" in said


def test_any_other_data_is_judged_by_its_first_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    assert run(monkeypatch, capsys, config)[0] == 0
    (tmp_path / "data/points.json").unlink()
    code, said = run(monkeypatch, capsys, config)
    assert code == 1 and "no-sample" in said


def test_the_overlay_of_a_database_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_tiny_nuscenes(tmp_path / "tiny", scenes={"scene-0061": 2})
    monkeypatch.chdir(tmp_path)
    code, said = run(monkeypatch, capsys, root, "--overlay", tmp_path / "overlay")
    assert code == 0 and "look whether boxes and lidar points lie on the objects" in said
    assert len(list((tmp_path / "overlay").glob("*_lidar.png"))) == 2


def test_the_docs_list_every_kind_of_finding_and_no_other() -> None:
    top = Path(doctor.__file__).resolve().parents[1]
    table = [line for line in (top / "docs/doctor.md").read_text().splitlines() if line[:1] == "|"]
    listed = {word for line in table for word in re.findall(r"`([a-z][a-z-]+)`", line)}
    sources = [*top.glob("det*d/doctor/*.py"), top / "tools/doctor.py"]
    words, named = set(), set()
    for tree in (ast.parse(source.read_text()) for source in sources):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                place = {"Finding": 1, "gather": 1, "attempt": 0}.get(node.func.id)
                kind = node.args[place] if place is not None and len(node.args) > place else None
                named |= {kind.value} if isinstance(kind, ast.Constant) else set()
    hyphenated = {word for word in words if re.fullmatch(r"[a-z]+(-[a-z]+)+", word)}
    assert sorted((named | hyphenated) - listed) == []
    assert sorted(listed - words) == []
