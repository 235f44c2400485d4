from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from detr2d.backbones.resnet import ResNetConfig
from detr2d.checkpoints.convert import convert_checkpoint, naming_fitting_configs, start_from
from detr2d.checkpoints.detr import DETR_TABLE
from detr2d.checkpoints.files import Origin, export_weights, load_weights, read_origin
from detr2d.checkpoints.rename import rename
from detr2d.config import UserError, load_experiment, to_json
from detr2d.inference import load_model
from detr2d.systems.detr import DETRConfig
from detr2d.systems.panoptic import PanopticDETRConfig
from detr2d.transformer import TransformerConfig

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
from pathlib import Path
from detr2d.backbones.resnet import ResNetConfig
from detr2d.config import Experiment
from detr2d.data.coco import CocoConfig
from detr2d.systems.detr import DETRConfig
from detr2d.transformer import TransformerConfig

experiment = Experiment(
    system=DETRConfig(
        backbone=ResNetConfig(depth={depth}, widths=(4, 4, 8, 8), out_stages=(4,)),
        transformer=TransformerConfig(
            channels=16, heads=2, hidden=16, encoder_layers=1, decoder_layers=2, num_queries=3
        ),
    ),
    data=CocoConfig(root=Path("nowhere"), classes={classes}),
)
"""


def write_config(
    folder: Path, name: str, depth: int = 10, classes: tuple[str, ...] = ("a",)
) -> Path:
    path = folder / f"{name}.py"
    path.write_text(CONFIG.format(depth=depth, classes=classes))
    return path


def official_state(config: Path) -> dict[str, Tensor]:
    """Random weights of the config's model under official names, found by inverting the table."""
    experiment = load_experiment(config)
    ours = experiment.system.build(experiment.data.class_names()).state_dict()
    inverse = [(r"backbone", "backbone.0.body"), (r"projection", "input_proj")]
    inverse += [("class_head", "class_embed"), ("transformer.queries", "query_embed")]
    inverse += [(f"box_head.{2 * i}", f"bbox_embed.layers.{i}") for i in range(3)]
    inverse += [("cross_attention.attention", "multihead_attn"), ("decoder_norm", "decoder.norm")]
    inverse += [("feed_forward.0", "linear1"), ("feed_forward.3", "linear2")]
    inverse += [("self_attention", "self_attn"), ("self_norm", "norm1"), ("cross_norm", "norm2")]
    inverse += [(f"transformer.decoder.{i}.", f"transformer.decoder.layers.{i}.") for i in (0, 1)]
    state = {}
    for name, tensor in ours.items():
        official = name.replace("feed_forward_norm", "norm2" if ".encoder." in name else "norm3")
        for mine, theirs in inverse:
            official = official.replace(mine, theirs)
        assert rename(official, DETR_TABLE) == name
        state[official] = torch.randn_like(tensor) if tensor.is_floating_point() else tensor
    return state


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_config(tmp_path, "small")


@pytest.fixture
def checkpoint(small: Path, tmp_path: Path) -> Path:
    path = tmp_path / "official.pth"
    torch.save({"model": official_state(small)}, path)
    return path


def test_converted_weights_load_into_the_config_they_name(small: Path, checkpoint: Path) -> None:
    target = checkpoint.with_name("ours.safetensors")
    notes = convert_checkpoint(small, load_experiment(small), checkpoint, target)
    assert len(notes) == 1
    model = load_model(load_experiment(small), target)
    official = torch.load(checkpoint)["model"]
    assert torch.equal(model.class_head.weight, official["class_embed.weight"])
    assert read_origin(target).classes == ("a",)


def test_an_official_file_loads_as_it_is(small: Path, checkpoint: Path) -> None:
    target = checkpoint.with_name("ours.safetensors")
    convert_checkpoint(small, load_experiment(small), checkpoint, target)
    direct = load_model(load_experiment(small), checkpoint)
    converted = load_model(load_experiment(small), target).state_dict()
    assert not direct.training
    assert all(torch.equal(value, converted[name]) for name, value in direct.state_dict().items())


def test_an_official_file_of_another_size_is_refused(small: Path, checkpoint: Path) -> None:
    deep = write_config(small.parent, "deep", depth=18)
    with pytest.raises(ValueError, match=r"official\.pth does not fit: .*missing: backbone"):
        load_model(load_experiment(deep), checkpoint)


def test_a_wrong_config_is_told_which_one_fits(small: Path, checkpoint: Path) -> None:
    deep = write_config(small.parent, "deep", depth=18)
    with pytest.raises(UserError, match=r"does not fit .*missing: backbone.*; it fits small.py"):
        convert_checkpoint(deep, load_experiment(deep), checkpoint, small.with_name("x"))
    assert not small.with_name("x").exists()


def test_configs_that_weights_cannot_tell_apart_are_named(small: Path, checkpoint: Path) -> None:
    write_config(small.parent, "twin")
    notes = convert_checkpoint(
        small, load_experiment(small), checkpoint, small.with_name("x.safetensors")
    )
    assert "also fit twin.py" in notes[1]


def test_other_classes_need_a_new_class_head_which_is_said(small: Path, checkpoint: Path) -> None:
    more = write_config(small.parent, "more", classes=("a", "b", "c"))
    target = checkpoint.with_name("x.safetensors")
    with pytest.raises(UserError, match=r"only the number of classes differs: --new-class-head"):
        convert_checkpoint(more, load_experiment(more), checkpoint, target)
    notes = convert_checkpoint(more, load_experiment(more), checkpoint, target, new_class_head=True)
    assert any("starts anew, for 3 classes" in note for note in notes)
    weights = load_file(target)
    assert weights["class_head.weight"].shape == (4, 16)
    official = torch.load(checkpoint)["model"]
    assert torch.equal(weights["transformer.queries.weight"], official["query_embed.weight"])


def test_a_system_without_official_weights_says_so(tmp_path: Path, checkpoint: Path) -> None:
    config = ROOT / "configs/toy/detr3d.py"
    with pytest.raises(UserError, match="official DETR3D weights are tied to six cameras"):
        convert_checkpoint(config, load_experiment(config), checkpoint, tmp_path / "x")


def test_training_starts_from_weights_of_the_same_classes(small: Path, tmp_path: Path) -> None:
    experiment = load_experiment(small)
    first, second = experiment.system.build(("a",)), experiment.system.build(("a",))
    path = tmp_path / "first.safetensors"
    export_weights(path, first.state_dict(), Origin({}, ("a",)))
    assert start_from(second, path, ("a",)) == f"starting from {path}"
    torch.testing.assert_close(second.state_dict(), first.state_dict())


def test_training_on_other_classes_starts_a_new_class_head(small: Path, tmp_path: Path) -> None:
    experiment = load_experiment(small)
    first, second = experiment.system.build(("a",)), experiment.system.build(("b", "c"))
    before = second.class_head.weight.clone()
    path = tmp_path / "first.safetensors"
    export_weights(path, first.state_dict(), Origin({}, ("a",)))
    assert "new class head: it knows 1 classes, the data has 2" in start_from(
        second, path, ("b", "c")
    )
    assert torch.equal(second.class_head.weight, before)
    assert torch.equal(second.transformer.queries.weight, first.transformer.queries.weight)
    with pytest.raises(ValueError, match="does not fit"):
        load_weights(second, path)


def test_a_part_that_the_file_does_not_know_starts_anew(tmp_path: Path) -> None:
    transformer = TransformerConfig(
        channels=16, heads=2, hidden=16, encoder_layers=1, decoder_layers=1, num_queries=3
    )
    backbone = ResNetConfig(depth=10, widths=(4, 4, 8, 8), out_stages=(1, 2, 3, 4))
    boxes = DETRConfig(backbone=backbone, transformer=transformer).build(("a",))
    masks = PanopticDETRConfig(backbone=backbone, transformer=transformer).build(("a",))
    path = tmp_path / "boxes.safetensors"
    export_weights(path, boxes.state_dict(), Origin({}, ("a",)))
    with pytest.raises(ValueError, match="missing mask_head"):
        start_from(masks, path, ("a",))
    before = masks.mask_head.first.weight.clone()
    said = start_from(masks, path, ("a",), new=("mask_head", "attention_maps", "backbone"))
    assert said == f"starting from {path}, new: mask_head, attention_maps"
    assert torch.equal(masks.mask_head.first.weight, before)
    assert torch.equal(masks.backbone.conv1.weight, boxes.backbone.conv1.weight)


def test_weights_of_ours_name_the_config_they_were_made_with(small: Path, tmp_path: Path) -> None:
    experiment = load_experiment(small)
    path = tmp_path / "model.safetensors"
    model = experiment.system.build(("a",))
    export_weights(path, model.state_dict(), Origin(to_json(experiment), ("a",)))
    deep = write_config(tmp_path, "deep", depth=18)
    with (
        pytest.raises(UserError, match=r"depth: saved 10, now 18; it fits small\.py$"),
        naming_fitting_configs(deep, path),
    ):
        load_model(load_experiment(deep), path)
    small.unlink()
    with (
        pytest.raises(UserError, match=r"no config in .* fits$"),
        naming_fitting_configs(deep, path),
    ):
        load_model(load_experiment(deep), path)


def test_the_tool_reports_in_one_line(
    small: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = checkpoint.with_name("ours.safetensors")
    tool = str(ROOT / "tools/convert_checkpoint.py")
    monkeypatch.setattr(sys, "argv", [tool, str(small), str(checkpoint), str(target)])
    runpy.run_path(tool, run_name="__main__")
    assert capsys.readouterr().out.endswith(f"weights: {target}\n")
    sys.argv[1] = str(write_config(small.parent, "deep", depth=18))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(tool, run_name="__main__")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "it fits small.py" in said
