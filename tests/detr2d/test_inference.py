import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detr2d.backbones.resnet import ResNetConfig
from detr2d.benchmark.subjects import noise_batch
from detr2d.config import Experiment, UserError
from detr2d.engine import fit
from detr2d.inference import evaluate, load_model, prepare_inference, round_weights
from detr2d.systems.detr import DETRConfig
from detr2d.transformer import TransformerConfig
from tests.helpers.toy_experiment import PointSystem, make_experiment


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path]:
    experiment = make_experiment(
        tmp_path_factory.mktemp("trained"), epochs=40, lr=0.05, backbone_lr_factor=1.0
    )
    return experiment, fit(experiment)


def test_trained_weights_score_well_and_files_are_kept(
    trained: tuple[Experiment, Path], tmp_path: Path
) -> None:
    experiment, weights = trained
    report = evaluate(experiment, weights)
    assert report.metrics["distance"] < 0.2
    assert "over 7" in report.table
    results = experiment.work_dir / "evaluation" / "results.json"
    assert set(json.loads(results.read_text())) == {f"point{i}" for i in range(7)}
    evaluate(experiment, weights, tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "results.json").exists()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_workers_do_not_change_the_score(
    trained: tuple[Experiment, Path], batch_size: int, workers: int
) -> None:
    experiment, weights = trained
    train = replace(experiment.train, batch_size=batch_size, workers=workers)
    expected = evaluate(experiment, weights).metrics["distance"]
    assert evaluate(replace(experiment, train=train), weights).metrics["distance"] == pytest.approx(
        expected, rel=1e-4
    )


def test_dropout_is_off(trained: tuple[Experiment, Path], tmp_path: Path) -> None:
    experiment = replace(make_experiment(tmp_path), system=PointSystem(dropout=0.9))
    model = load_model(experiment, fit(experiment))
    assert not model.training
    sample = experiment.data.evaluation_set()[0]
    torch.testing.assert_close(model(sample).codes, model(sample).codes, rtol=0, atol=0)


def test_weights_of_another_system_are_refused_with_the_settings(
    trained: tuple[Experiment, Path],
) -> None:
    experiment, weights = trained
    other = replace(experiment, system=PointSystem(width=4, dropout=0.5))
    with pytest.raises(UserError) as error:
        evaluate(other, weights)
    assert "system.width: saved 8, now 4; system.dropout: saved 0.0, now 0.5" in str(error.value)
    assert str(weights) in str(error.value)


def test_weights_are_judged_on_other_data(trained: tuple[Experiment, Path], tmp_path: Path) -> None:
    experiment, weights = trained
    other = replace(experiment, data=replace(experiment.data, root=tmp_path))  # type: ignore[call-arg]
    assert evaluate(other, weights, tmp_path).metrics["distance"] < 0.2


def test_missing_weights_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.safetensors not found"):
        evaluate(make_experiment(tmp_path), tmp_path / "nothing.safetensors")


def test_two_samples_of_one_token_are_not_lost_silently(
    trained: tuple[Experiment, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, weights = trained
    points = type(experiment.data.evaluation_set())
    monkeypatch.setattr(points, "__len__", lambda self: 8)
    original = points.__getitem__
    monkeypatch.setattr(points, "__getitem__", lambda self, index: original(self, index % 7))
    with pytest.raises(ValueError, match="8 samples gave 7 results"):
        evaluate(experiment, weights)


@pytest.mark.parametrize(
    ("precision", "limit"), [("float32", 1e-4), ("bfloat16", 0.05)], ids=["float32", "bfloat16"]
)
def test_a_prepared_model_predicts_the_same(precision: str, limit: float) -> None:
    torch.manual_seed(0)
    system = DETRConfig(
        backbone=ResNetConfig(depth=10, widths=(8, 8, 16, 16), out_stages=(4,)),
        transformer=TransformerConfig(channels=32, heads=4, hidden=64, num_queries=5),
    )
    plain = system.build(("a", "b")).eval()
    batch = noise_batch((64, 96), images=2, objects=0)
    with torch.inference_mode():
        expected = plain(batch)
        predict = prepare_inference(copy.deepcopy(plain), precision, torch.device("cpu"))
        found = predict(batch)
    assert found.logits.dtype == torch.float32
    torch.testing.assert_close(found.logits, expected.logits, rtol=limit, atol=limit)
    torch.testing.assert_close(found.codes, expected.codes, rtol=limit, atol=limit)


def test_rounding_once_is_what_autocast_does_every_time() -> None:
    torch.manual_seed(0)
    system = DETRConfig(
        backbone=ResNetConfig(
            depth=10,
            widths=(8, 8, 16, 16),
            out_stages=(4,),
            norm="batch",  # nothing is folded
        ),
        transformer=TransformerConfig(channels=32, heads=4, hidden=64, num_queries=5),
    )
    model = system.build(("a", "b")).eval()
    batch = noise_batch((64, 96), images=1, objects=0)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = model(batch).logits
        round_weights(model)
        assert torch.equal(model(batch).logits, expected)
