import json
import sys
from pathlib import Path

import pytest

from detr2d.config import load_experiment
from detr2d.engine import fit
from tests.helpers.toy_experiment import write_config
from tests.tools.test_train import run
from tools import evaluate


def test_the_tool_prints_the_table_and_where_the_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    weights = fit(load_experiment(config))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(config), str(weights)])
    evaluate.main()
    table, files = capsys.readouterr().out.splitlines()
    assert table.startswith("distance ")
    assert table.endswith("over 7")
    assert files == f"files: {tmp_path}/run/evaluation"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["missing.safetensors"], "weights missing.safetensors not found"),
        ([], "Exported weights"),
        (["{weights}", "--system.width", "9"], "system.width: saved 8, now 9"),
        (["{config}"], "config.py is truncated or not a safetensors file"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    config = write_config(tmp_path)
    weights = fit(load_experiment(config), stop_after=0)
    capsys.readouterr()
    words = [word.format(weights=weights, config=config) for word in words]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(config), *words])
    with pytest.raises(SystemExit) as stop:
        evaluate.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("error: ")
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_two_processes_judge_the_same_samples(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    weights = fit(load_experiment(config))
    results = []
    for processes in (0, 2):
        output_dir = tmp_path / str(processes)
        words = ("tools/evaluate.py", config, weights, "--output-dir", output_dir)
        done = run(*words, processes=processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("distance") == 1
        results.append(json.loads((output_dir / "results.json").read_text()))
    assert len(results[0]) == 7
    assert results[0] == pytest.approx(results[1])
