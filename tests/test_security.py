"""What SECURITY.md promises, checked on the sources and at the readers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from det3d.data.nuscenes import NuScenesConfig
from det3d.results.format import read_results
from det3d.visualization.result_source import ResultSource
from detr2d.data.coco import CocoConfig
from detr2d.data.panoptic import CocoPanopticConfig
from tests.helpers.findings import edit
from tests.helpers.result_frames import make_frame, write_result_file
from tests.helpers.tiny_coco import write_tiny_coco
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("detr2d", "det3d", "tools", "configs")
SOURCES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py"))
FORBIDDEN_MODULES = {
    "cloudpickle", "dill", "joblib", "shelve", "yaml", "zipfile", "tarfile", "requests", "urllib",
    "http", "socket", "ftplib",
}  # fmt: skip
FORBIDDEN_CALLS = {
    "pickle.load", "pickle.loads", "marshal.load", "eval", "exec", "compile", "__import__",
    "os.system", "os.popen", "shutil.unpack_archive", "torch.hub.load", "np.lib.format.read_array",
}  # fmt: skip
RUNS_CODE = {  # of files that the user names
    "detr2d/config.py", "detr2d/parity/fixtures.py", "detr2d/benchmark/subjects.py",
}  # fmt: skip
READS_ARCHIVES = {"detr2d/checkpoints/files.py": {"zipfile"}}  # checksums; nothing is unpacked
UNPICKLES = {"det3d/doctor/pickled.py"}  # a subclass that finds harmless names only


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of nested attributes."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of all calls with their constant keyword arguments."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            words = {k.arg: getattr(k.value, "value", ...) for k in node.keywords if k.arg}
            yield dotted(node.func), words


def modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_source_can_run_what_a_file_holds(path: Path) -> None:
    assert modules(path) & FORBIDDEN_MODULES <= READS_ARCHIVES.get(name_of(path), set())
    for name, words in calls(path):
        assert name not in FORBIDDEN_CALLS, name
        if name == "torch.load":
            assert words.get("weights_only") is True
        assert words.get("allow_pickle", False) is False
        assert words.get("shell", False) is False
        assert not name.endswith((".extract", ".extractall")), name
        assert not name.startswith("runpy.") or name_of(path) in RUNS_CODE, name
        assert not name.endswith("Unpickler") or name_of(path) in UNPICKLES, name


def test_the_promises_name_files_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = {part for part in text.split("`") if "/" in part and " " not in part}
    assert named and all((ROOT / part).exists() for part in named)


ESCAPES = ("../../../etc/passwd", "/etc/passwd")


@pytest.mark.parametrize("name", ESCAPES)
def test_coco_images_outside_their_folder_are_refused(name: str, tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "tiny")
    edit(root / "instances.json", lambda c: c["images"][0].update(file_name=name))
    data = CocoConfig(
        root=root, training_images="images", training_annotations="instances.json",
        evaluation_images="images", evaluation_annotations="instances.json",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"image 7: file name .* is refused"):
        data.evaluation_set()[0]


@pytest.mark.parametrize("name", ESCAPES)
def test_segment_maps_outside_their_folder_are_refused(name: str, tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "tiny")
    edit(root / "panoptic.json", lambda c: c["annotations"][0].update(file_name=name))
    data = CocoPanopticConfig(
        root=root, evaluation_images="images", evaluation_annotations="panoptic.json",
        evaluation_maps="maps", training_annotations="panoptic.json",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"image 7: file name .* is refused"):
        data.evaluation_set()[0]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("sensor", ["CAM_FRONT", "LIDAR_TOP"])
def test_files_outside_a_database_are_refused(name: str, sensor: str, tmp_path: Path) -> None:
    root = write_tiny_nuscenes(tmp_path / "tiny", scenes={"scene-0103": 1})

    def change(rows: list[dict[str, Any]]) -> None:
        next(r for r in rows if f"/{sensor}/" in r["filename"])["filename"] = name

    edit(root / "v1.0-mini/sample_data.json", change)
    data = NuScenesConfig(
        root=root, version="v1.0-mini", evaluation_split="mini_val", index_dir=tmp_path / "index"
    )
    samples = data.evaluation_set()
    read = samples.lidar_points if sensor == "LIDAR_TOP" else samples.__getitem__
    with pytest.raises(ValueError, match=r"file name .* is refused"):
        read(0)


@pytest.mark.parametrize("name", ESCAPES)
def test_images_outside_the_root_of_results_are_refused(name: str, tmp_path: Path) -> None:
    path = write_result_file(tmp_path, make_frame())
    edit(path, lambda c: c["frames"][0]["cameras"][0].update(image=name))
    with pytest.raises(ValueError, match=r"file name .* is refused"):
        ResultSource(read_results(path), score=0.3, with_lidar=False).look(0)
