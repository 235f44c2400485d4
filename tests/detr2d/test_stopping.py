"""Signals save and stop at the next step, and what kill -9 leaves can be continued."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from detr2d.checkpoints.files import list_states, load_state
from detr2d.config import Experiment
from detr2d.engine import fit
from detr2d.log import read_log
from detr2d.stopping import Stopped, StopRequest
from tests.helpers.toy_experiment import PointData, make_experiment, write_config

ROOT = Path(__file__).resolve().parents[2]


def test_a_request_is_remembered_and_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as request:
        assert not request.made
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.made == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


class Interrupting(PointData):
    """Sends a signal when the 30th sample is read."""

    def training_set(self, seed: int):  # type: ignore[no-untyped-def]
        points = super().training_set(seed)
        read = type(points).__getitem__
        count = 0

        class Sender(type(points)):  # type: ignore[misc]
            def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
                nonlocal count
                count += 1
                if count == 30:
                    os.kill(os.getpid(), signal.SIGTERM)
                return read(self, index)

        points.__class__ = Sender
        return points


def test_sigterm_saves_after_the_step_and_resuming_goes_on_exactly(tmp_path: Path) -> None:
    whole = make_experiment(tmp_path / "whole", epochs=3, log_every=4)
    fit(whole)
    parts = replace(whole, work_dir=tmp_path / "parts")
    stopped = replace(parts, data=Interrupting(root=whole.data.root))  # type: ignore[attr-defined]
    with pytest.raises(Stopped, match=r"SIGTERM after step 8 of 18.*--resume"):
        fit(stopped)  # sample 30 belongs to the second batch of the second epoch
    assert list_states(parts.work_dir)[-1].name == "step_00000008"
    fit(parts, resume=True)
    first, second = (load_file(run.work_dir / "model.safetensors") for run in (whole, parts))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    logs = [read_log(run.work_dir / "log.jsonl") for run in (whole, parts)]
    kept = [[(r["step"], r["loss"], r["grad_norm"], r["losses"]) for r in log] for log in logs]
    assert kept[0] == kept[1]


def train_on(experiment: Experiment) -> None:
    torch.set_num_threads(1)
    fit(experiment, resume=True)


@pytest.mark.slow
def test_twenty_kills_lose_at_most_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    """kill -9 at random moments: no checkpoint is lost or torn, and the end is the same."""
    every = 7
    settings = {"epochs": 300, "log_every": 1, "checkpoint_every": 50, "checkpoint_steps": every}
    whole = make_experiment(tmp_path / "whole", **settings, ema_decay=0.9)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detr2d.engine", "tests.helpers.toy_experiment"])
    killed = replace(whole, work_dir=tmp_path / "killed")
    rng, newest, kills, interrupted_saves = random.Random(1), 0, 0, 0
    while kills < 20:
        process = context.Process(target=train_on, args=(killed,))
        process.start()
        deadline = time.monotonic() + 600
        while not (states := list_states(killed.work_dir)) or int(states[-1].name[5:]) <= newest:
            assert process.is_alive() and time.monotonic() < deadline, "no progress"
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))
        assert process.is_alive(), "it finished before it was killed 20 times: more epochs needed"
        process.kill()
        process.join()
        kills += 1
        states = list_states(killed.work_dir)
        assert int(states[-1].name[5:]) > newest, "a checkpoint was lost"
        newest = int(states[-1].name[5:])
        for state in states:
            load_state(state)
        done = [record["step"] for record in read_log(killed.work_dir / "log.jsonl")][-1]
        assert done - newest <= every
        folder = killed.work_dir / "checkpoints"
        interrupted_saves += any(folder.glob(".step_*.tmp"))
    print(f"{kills} kills, {interrupted_saves} of them while a state was written, at step {newest}")
    fit(killed, resume=True)
    fit(whole)
    first, second = (load_file(run.work_dir / "model.safetensors") for run in (whole, killed))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    logs = [read_log(run.work_dir / "log.jsonl") for run in (whole, killed)]
    assert [(r["step"], r["loss"]) for r in logs[0]] == [(r["step"], r["loss"]) for r in logs[1]]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_whole_job_can_be_signalled_workers_too(tmp_path: Path, number: int) -> None:
    """As a terminal or a cluster does it: every process of the group hears the signal."""
    config = write_config(tmp_path)
    words = ["--train.workers", "2", "--train.epochs", "4000", "--train.log-every", "1"]
    command = [sys.executable, "tools/train.py", str(config), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    job = subprocess.Popen(
        command, cwd=ROOT, env=environment, start_new_session=True, stdout=pipe, stderr=pipe
    )
    deadline = time.monotonic() + 600
    try:
        while not read_log(tmp_path / "run" / "log.jsonl"):
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(job.pid, number)
        said, complained = job.communicate(timeout=600)
    finally:
        job.kill()
    assert job.returncode == 75, complained.decode()
    assert b"--resume continues" in said
    last = list_states(tmp_path / "run")[-1]
    assert load_state(last)[0]["step"] == int(last.name[5:])
