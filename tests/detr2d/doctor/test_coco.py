"""Each fault planted in a small COCO data set is found as what it is, and nothing else is."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detr2d.doctor.coco_folder import Part, examine_parts, find_parts
from detr2d.doctor.findings import Finding, format_findings
from tests.helpers.findings import alarms, edit, kinds
from tests.helpers.tiny_coco import annotation, write_tiny_coco

Content = dict[str, Any]
Change = Callable[[Content], Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tiny_coco(tmp_path / "tiny")


def examine(root: Path) -> list[Finding]:
    return examine_parts([Part(root / "instances.json", root / "images")])


def first(content: Content, **changes: Any) -> None:
    content["annotations"][0].update(changes)


def every_box(change: Callable[[list[float]], list[float]]) -> Change:
    def plant(content: Content) -> None:
        for row in content["annotations"]:
            row["bbox"] = change(row["bbox"])
            row.pop("segmentation")

    return plant


def normalised(content: Content) -> None:
    sizes = {image["id"]: image for image in content["images"]}
    for row in content["annotations"]:
        size, (x, y, w, h) = sizes[row["image_id"]], row["bbox"]
        row["bbox"] = [x / size["width"], y / size["height"], w / size["width"], h / size["height"]]
        row.pop("segmentation")


FILE_FAULTS: dict[str, tuple[Change, str]] = {
    "an image id twice": (lambda c: c["images"][1].update(id=7), "duplicate-image-id"),
    "an annotation id twice": (lambda c: first(c, id=9), "duplicate-annotation-id"),
    "a category id twice": (lambda c: c["categories"][0].update(id=45), "duplicate-category-id"),
    "a category name twice": (
        lambda c: c["categories"][0].update(name="Dog "),
        "duplicate-category-name",
    ),
    "an unknown image": (lambda c: first(c, image_id=8), "unknown-image"),
    "an unknown category": (lambda c: first(c, category_id=77), "unknown-category"),
    "a file twice": (
        lambda c: c["images"][1].update(file_name="000007.png", height=40, width=60),
        "duplicate-file-name",
    ),
    "a way out of the folder": (
        lambda c: c["images"][1].update(file_name="../../etc/passwd"),
        "path-escape",
    ),
    "an absolute name": (lambda c: c["images"][1].update(file_name="/etc/passwd"), "path-escape"),
    "a flat box": (lambda c: first(c, bbox=[10, 5, 0, 30], segmentation=[]), "degenerate-box"),
    "a negative box": (lambda c: first(c, bbox=[30, 35, -20, -30]), "negative-box"),
    "an infinite box": (lambda c: first(c, bbox=[10, 5, 20, float("inf")]), "malformed-row"),
    "three numbers": (lambda c: first(c, bbox=[10, 5, 20]), "malformed-row"),
    "an id as text": (lambda c: first(c, image_id="7"), "malformed-row"),
    "a row that is no object": (lambda c: c["annotations"].append(5), "malformed-row"),
    "no file name": (lambda c: c["images"][1].pop("file_name") and None, "malformed-row"),
    "no height": (lambda c: c["images"][1].update(height=0), "malformed-row"),
    "a box beside its image": (
        lambda c: first(c, bbox=[100, 5, 20, 30], segmentation=[]),
        "box-outside",
    ),
    "a box over the border": (
        lambda c: first(c, bbox=[50, 5, 20, 30], segmentation=[]),
        "box-beyond-border",
    ),
    "corners": (every_box(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]), "box-format"),
    "shares": (normalised, "box-format"),
    "an area above the box": (lambda c: first(c, area=99999), "area"),
    "an area of zero": (lambda c: first(c, area=0), "area"),
    "a strange crowd": (lambda c: first(c, iscrowd=2), "crowd-mark"),
    "an object twice": (
        lambda c: c["annotations"].append(annotation(77, 7, 0, [10, 5, 20, 30])),
        "duplicate-object",
    ),
    "a mask elsewhere": (lambda c: first(c, bbox=[30, 5, 20, 30]), "box-off-mask"),
    "two numbers as mask": (lambda c: first(c, segmentation=[[1, 2]]), "broken-mask"),
    "a mask of another size": (
        lambda c: first(c, segmentation={"size": [9, 9], "counts": [81]}),
        "broken-mask",
    ),
    "a mask without pixel": (
        lambda c: first(c, segmentation={"size": [40, 60], "counts": [2400]}),
        "empty-mask",
    ),
    "crowds only": (
        lambda c: [a.update(iscrowd=1) for a in c["annotations"]] and None,
        "crowd-only",
    ),
    "a crowd alone in its image": (
        lambda c: [
            a.update(iscrowd=1) for a in c["annotations"] if a["image_id"] == 12
        ] and None,
        "crowd-only",
    ),
    "no annotations": (lambda c: c["annotations"].clear(), "no-annotations"),
    "no list of categories": (lambda c: c.pop("categories") and None, "no-coco-file"),
    "a list": (lambda c: [c], "no-coco-file"),
    "the wrong size": (lambda c: c["images"][0].update(height=48), "image-size"),
    "height and width swapped": (
        lambda c: c["images"][0].update(height=60, width=40),
        "image-size",
    ),
}  # fmt: skip
COMPANIONS = {  # what one fault brings with it
    "a file twice": {"image-size"},
    "a category id twice": {"unknown-category"},
    "an image id twice": {"box-beyond-border", "box-off-mask", "broken-mask"},
    "no file name": {"unknown-image"},
    "no height": {"unknown-image"},
    "shares": {"area"},
    "the wrong size": {"broken-mask"},
    "height and width swapped": {"broken-mask", "box-beyond-border", "box-off-mask", "box-outside"},
}


def test_the_clean_set_has_no_alarm(root: Path) -> None:
    assert alarms(examine(root)) == set()


@pytest.mark.parametrize("name", FILE_FAULTS)
def test_a_fault_in_the_file_is_found(name: str, root: Path) -> None:
    change, kind = FILE_FAULTS[name]
    edit(root / "instances.json", change)
    found = alarms(examine(root))
    assert kind in found
    assert found - {kind} <= COMPANIONS.get(name, set())


def png_of(height: int, width: int) -> bytes:
    """A picture of any claimed size in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def blank() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), (9, 9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda p: p.unlink(), "image-missing"),
        (lambda p: p.write_bytes(b""), "image-corrupt"),
        (lambda p: p.write_bytes(p.read_bytes()[:-400]), "image-corrupt"),
        (lambda p: p.write_text("<html>"), "image-corrupt"),
        (lambda p: p.write_bytes(png_of(60000, 60000)), "image-corrupt"),
        (lambda p: p.write_bytes(blank()), "image-blank"),
    ],
)  # fmt: skip
def test_a_broken_picture_is_found(change: Callable[[Path], Any], kind: str, root: Path) -> None:
    change(root / "images/000007.png")
    assert alarms(examine(root)) == {kind}


def test_a_truncated_jpeg_is_found_though_decoders_fill_it_up(root: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = root / "images/000007.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:-500])
    edit(root / "instances.json", lambda c: c["images"][0].update(file_name="000007.jpg"))
    assert alarms(examine(root)) == {"image-corrupt"}


def test_ids_off_by_one_are_called_so(root: Path) -> None:
    def plant(content: Content) -> None:
        for number, category in enumerate(content["categories"]):
            category["id"] = number
        for row, label in zip(content["annotations"], (1, 2, 1, 3, 1), strict=True):
            row["category_id"] = label

    edit(root / "instances.json", plant)
    said = [f for f in examine(root) if f.kind == "unknown-category"]
    assert "off by one" in said[0].advice


def test_gaps_unused_categories_and_empty_images_are_notes(root: Path) -> None:
    edit(root / "instances.json", lambda c: c["categories"].append({"id": 3, "name": "fish"}))
    assert {"category-id-gap", "unused-category", "empty-image"} <= kinds(examine(root))


@pytest.mark.parametrize("how", ["file", "copy", "again"])
def test_an_image_of_training_and_evaluation_is_a_leak(how: str, root: Path) -> None:
    content = json.loads((root / "instances.json").read_text())
    for name, chosen in (("train", content["images"][:1]), ("val", content["images"][2:])):
        rows = [a for a in content["annotations"] if a["image_id"] == chosen[0]["id"]]
        (root / f"{name}.json").write_text(
            json.dumps({**content, "images": chosen, "annotations": rows})
        )
    parts = [Part(root / f"{name}.json", root / "images") for name in ("train", "val")]
    assert alarms(examine_parts(parts)) == set()
    leak = content["images"][0] | {"id": 99}
    if how != "file":
        leak["file_name"] = "copied.png"
        shutil.copy(root / "images/000007.png", root / "images/copied.png")
    if how == "again":  # the same pixels in other bytes
        Image.open(root / "images/000007.png").save(root / "images/copied.png", compress_level=0)
    edit(root / "val.json", lambda c: c["images"].append(leak))
    assert alarms(examine_parts(parts)) == {"leakage"}


def panoptic(root: Path) -> list[Finding]:
    return examine_parts([Part(root / "panoptic.json", root / "images", root / "maps")])


def segment(content: Content, **changes: Any) -> None:
    content["annotations"][0]["segments_info"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda c: segment(c, id=71111), {"map-id", "map-extra"}),
        (lambda c: segment(c, area=1), {"map-area"}),
        (lambda c: segment(c, category_id=5), {"unknown-category"}),
        (lambda c: segment(c, area="x"), {"malformed-row"}),
        (lambda c: c["annotations"][0].update(file_name="../x.png"), {"path-escape"}),
        (lambda c: c["annotations"][0].update(file_name="x.png"), {"map-missing"}),
        (lambda c: c["annotations"][0].update(image_id=5), {"unknown-image"}),
        (lambda c: c["annotations"].append(c["annotations"][0]), {"duplicate-annotation"}),
        (lambda c: c["images"][0].update(height=48), {"map-size", "image-size"}),
    ],
)  # fmt: skip
def test_a_fault_in_a_panoptic_file_is_found(change: Change, kind: set[str], root: Path) -> None:
    assert alarms(panoptic(root)) == set()
    edit(root / "panoptic.json", change)
    found = alarms(panoptic(root))
    assert kind <= found <= kind | {"map-extra"}


def test_the_text_counts_and_starts_with_the_worst(root: Path) -> None:
    edit(root / "instances.json", lambda c: first(c, id=9))
    text = format_findings(examine(root))
    assert text.startswith("error    duplicate-annotation-id")
    assert "annotation ids that appear more than once (1): 9" in text
    assert text.splitlines()[-1].startswith("1 error, 0 warnings, ")


@pytest.mark.real
def test_real_images_give_no_alarm(real: Path) -> None:
    parts = find_parts(real / "coco_mini")
    assert len(parts) == 2
    assert alarms(examine_parts(parts)) == set()
