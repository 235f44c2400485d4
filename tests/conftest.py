"""Every test starts from the same seed and keeps to one thread, so that workers do not fight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def parity() -> Path:
    """The official reference outputs beside the repository; skips where they are absent."""
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip("no official reference outputs in ../shared/parity")
    return folder


@pytest.fixture(scope="session")
def real() -> Path:
    """The real nuScenes and COCO data beside the repository; skips where they are absent."""
    folder = SHARED / "real"
    if not folder.is_dir():
        pytest.skip("no real data in ../shared/real")
    return folder
