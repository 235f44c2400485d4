from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_cases_are_listed_and_an_unknown_one_is_one_line() -> None:
    listed = run("--list")
    assert listed.returncode == 0, listed.stderr
    assert "detr.infer" in listed.stdout and "growth.petr.cameras" in listed.stdout
    unknown = run("swin.infer")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: expected one of ") and "swin.infer" in unknown.stderr
