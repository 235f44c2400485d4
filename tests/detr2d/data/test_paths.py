"""Names out of data files stay below their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from detr2d.data.paths import below

FOLDER = Path("data")


@pytest.mark.parametrize("name", ["a.jpg", "train/a.jpg", "..a.jpg", "a..b/c.jpg", "a b"])
def test_names_below_the_folder_are_joined(name: str) -> None:
    assert below(FOLDER, name, "image 5") == FOLDER / name


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg", "a/../../b.jpg", "/etc/passwd", "..", "a\\..\\..\\b", "C:\\a.jpg",
        "\\\\host\\a",
        "", " ", "a\0b", None, 5,
    ],
)  # fmt: skip
def test_names_that_leave_it_are_refused(name: object) -> None:
    with pytest.raises(ValueError, match=r"^image 5: file name .* is refused: expected a relative"):
        below(FOLDER, name, "image 5")
