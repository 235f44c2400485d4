"""Which image files are equal, and which of them are decoded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detr2d.doctor import images
from detr2d.doctor.images import Look, Wanted, look_at, look_at_all, same_pictures, shared_pictures
from tests.helpers.findings import alarms


def noise(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def look(path: Path, *, decode: bool) -> Look:
    return look_at(path.parent, Wanted(path.name, path.name), decode=decode)


def test_files_that_only_begin_alike_are_no_copies(tmp_path: Path) -> None:
    first = noise(tmp_path / "first.bmp")
    content = bytearray(first.read_bytes())
    content[-1] ^= 255
    (tmp_path / "second.bmp").write_bytes(content)
    for decode in (False, True):
        looks = [look(tmp_path / f"{name}.bmp", decode=decode) for name in ("first", "second")]
        assert shared_pictures(looks[:1], looks[1:], "here") == []
        assert same_pictures(looks, "here") == []


@pytest.mark.parametrize("decoded", [(True, False), (False, True), (True, True), (False, False)])
def test_a_copy_is_found_whichever_is_decoded(decoded: tuple[bool, bool], tmp_path: Path) -> None:
    first = noise(tmp_path / "first.bmp")
    second = Path(shutil.copy(first, tmp_path / "second.bmp"))
    looks = [look(p, decode=d) for p, d in zip((first, second), decoded, strict=True)]
    assert alarms(same_pictures(looks, "here")) == {"image-copy"}
    assert alarms(shared_pictures(looks[:1], looks[1:], "here")) == {"leakage"}


def test_every_camera_is_decoded_and_always_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "DECODED", 100)
    noise(tmp_path / "it.png")
    wanted = [Wanted(f"camera {number % 6}", "it.png") for number in range(240)]
    looks = look_at_all(tmp_path, wanted)
    decoded = [number for number, found in enumerate(looks) if found.pixels]
    assert len(decoded) == 100
    counts = np.bincount([number % 6 for number in decoded], minlength=6)
    assert counts.min() > 8  # 17 each on average
    again = look_at_all(tmp_path, wanted)
    assert decoded == [number for number, found in enumerate(again) if found.pixels]
