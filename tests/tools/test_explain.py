from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detr2d.checkpoints.files import Origin, export_weights
from detr2d.config import load_experiment, to_json
from tests.helpers.tiny_coco import write_tiny_coco
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes
from tests.tools.test_visualize import CONFIG
from tools import explain

IMAGE_CONFIG = """
from pathlib import Path
from detr2d.config import Experiment
from detr2d.data.coco import CocoConfig
from detr2d.data.transforms import Resolution
from detr2d.systems.detr import DETRConfig
from detr2d.transformer import TransformerConfig

experiment = Experiment(
    system=DETRConfig(transformer=TransformerConfig(
        channels=16, heads=2, hidden=16, encoder_layers=1, decoder_layers=3, num_queries=7)),
    data=CocoConfig(
        root=Path({root!r}), training_images="images", evaluation_images="images",
        training_annotations="instances.json", evaluation_annotations="instances.json",
        resolution=Resolution(shortest=96, longest=160),
    ),
)
"""


def write_weights(config: Path) -> Path:
    experiment = load_experiment(config)
    classes = experiment.data.class_names()
    torch.manual_seed(0)
    weights = experiment.system.build(classes).state_dict()
    path = config.with_name("model.safetensors")
    export_weights(path, weights, Origin(to_json(experiment), classes))
    return path


@pytest.fixture(scope="module", params=["scene", "image"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Config and weights of a small system."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "scene":
        text, root = CONFIG, write_tiny_nuscenes(folder / "db")
    else:
        text, root = IMAGE_CONFIG, write_tiny_coco(folder / "coco")
    config = folder / "config.py"
    config.write_text(text.format(root=str(root)))
    return [str(config), str(write_weights(config))]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["explain.py", *arguments])
    explain.main()


def test_a_box_is_explained(
    trained: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures = []
    for box in ("0", "3"):
        path = tmp_path / f"{box}.png"
        run(monkeypatch, *trained, "--box", box, "-o", str(path))
        said = capsys.readouterr().out.splitlines()
        assert "query" in said[0] and said[1] == str(path)
        pictures.append(np.asarray(Image.open(path)))
    assert pictures[0].shape[2] == 3
    assert pictures[0].shape != pictures[1].shape or (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--box", "5000"], "no box 5000: there are"),
        (["--query", "5000"], "query 5000 is behind none of the"),
        (["--sample", "none"], "'none'"),
    ],
)
def test_mistakes_end_in_one_line(
    trained: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *trained, *arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in said
    assert said.count("\n") == 1
