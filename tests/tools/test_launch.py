"""Training as clusters start it: torchrun, and the SLURM script of docs/reliability.md."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from detr2d.checkpoints.files import list_states
from tests.helpers.toy_experiment import write_config
from tests.tools.test_train import ROOT, run

SRUN = """#!/bin/bash
# Two tasks of one node; if asked, a signal for all of them once there is a log.
export SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!); done
if [ -n "$STOP_AT" ]; then
    until [ -s "$STOP_AT" ]; do sleep 0.1; done
    kill -TERM "${tasks[@]}"
fi
code=0
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit $code
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$*" >> requeued; fi
"""


def slurm_script(config: Path, options: str) -> str:
    """The script of the docs, for this config and with more options."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    block = text[text.index("    #!/bin/bash") :].split("\n\n")[0]
    script = textwrap.dedent(block)
    assert "CONFIG" in script and "29500" in script
    return script.replace("CONFIG", f"{config} {options}").replace("tools/", f"{ROOT}/tools/")


def test_the_slurm_script_is_well_formed(tmp_path: Path) -> None:
    checked = subprocess.run(
        ["bash", "-n"], input=slurm_script(tmp_path, ""), text=True, capture_output=True
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_the_slurm_script_trains_stops_requeues_and_goes_on(tmp_path: Path, sharding: str) -> None:
    """The script itself, with small commands in the place of srun and scontrol."""
    commands = tmp_path / "bin"
    commands.mkdir()
    words = {"srun": SRUN, "scontrol": SCONTROL, "python": f'#!/bin/sh\nexec {sys.executable} "$@"'}
    for name, text in words.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "here",
        "OMP_NUM_THREADS": "1",
    }
    config, log = write_config(tmp_path), tmp_path / "run" / "log.jsonl"

    def start(options: str, stop_at: str) -> subprocess.CompletedProcess[str]:
        script = slurm_script(config, f"--train.sharding {sharding} {options}")
        return subprocess.run(
            ["bash"], input=script.replace("29500", str(29500 + os.getpid() % 1000)), text=True,
            cwd=tmp_path, env={**environment, "STOP_AT": stop_at}, capture_output=True, timeout=300,
        )  # fmt: skip

    stopped = start("--train.epochs 100000", str(log))
    assert (tmp_path / "requeued").read_text() == "requeue 7\n", stopped.stderr
    reached = list_states(tmp_path / "run")[-1]
    epochs = int(reached.name.removeprefix("step_")) // 3 + 2
    done = start(f"--train.epochs {epochs}", "")
    assert done.returncode == 0, done.stderr
    assert list_states(tmp_path / "run")[-1].name == f"step_{3 * epochs:08d}"
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.slow
def test_sharded_training_and_evaluation_from_the_command_line(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    trained = run("tools/train.py", config, "--train.sharding", "full", processes=2)
    assert trained.returncode == 0, trained.stderr
    weights = tmp_path / "run" / "model.safetensors"
    assert trained.stdout.strip() == f"weights: {weights}"
    judged = run("tools/evaluate.py", config, weights, "--train.sharding", "full")
    assert judged.returncode == 0, judged.stderr
    assert "distance" in judged.stdout
