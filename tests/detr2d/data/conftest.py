"""The tiny COCO data set, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.tiny_coco import write_tiny_coco


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coco(tmp_path_factory.mktemp("coco") / "tiny")
