"""Image files against what a data set says about them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from detr2d.data.image_headers import DECODE_ERRORS, decode_rgb, open_image
from detr2d.data.paths import below
from detr2d.doctor.findings import Finding, Severity, gather

DECODED = 1000  # images that are decoded, drawn with a fixed seed; the others are only hashed
BLOCK = 2**20  # bytes that are hashed at a time
ORIENTATION = 274  # the EXIF tag; 1 is upright
BLANK = 2.0  # largest minus smallest value of a picture that shows nothing


@dataclass(frozen=True)
class Wanted:
    """An image file as a data set names it: ``size`` is (height, width), None if it says none."""

    label: str
    name: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Look:
    """What an image file turned out to be.

    ``fault`` is (kind, words); digest: of the bytes of the file; pixels: of the decoded
    picture, None if it was not decoded.
    """

    wanted: Wanted
    fault: tuple[str, str] | None = None
    turned: bool = False
    blank: bool = False
    digest: str = ""
    pixels: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """What a copy shares with it, its bytes or its pixels; nothing if it is blank."""
        return () if self.blank else tuple(key for key in (self.digest, self.pixels) if key)


WORDS: dict[str, tuple[Severity, str, str]] = {
    "path-escape": (
        "error", "file names that leave their folder",
        "name files relative to the folder, without ..; the readers refuse these",
    ),
    "image-missing": (
        "error", "image files that are missing", "is the folder right, and the download complete?",
    ),
    "image-corrupt": (
        "error", "image files that cannot be decoded",
        "get them again: they are cut off, empty or no images",
    ),
    "image-size": (
        "error", "images of another size than annotated",
        "correct height and width, or take the images that the annotations were made on",
    ),
}  # fmt: skip


def examine_images(folder: Path, wanted: Sequence[Wanted], where: Path | str) -> list[Finding]:
    """What is wrong with the files of ``wanted`` below ``folder``."""
    return judge_looks(look_at_all(folder, wanted), where)


def look_at_all(folder: Path, wanted: Sequence[Wanted]) -> list[Look]:
    """All files; at most ``DECODED`` of them are decoded."""
    decoded = drawn(len(wanted))
    return [look_at(folder, item, decode=i in decoded) for i, item in enumerate(wanted)]


def drawn(count: int) -> frozenset[int]:
    """Which of ``count`` files are decoded: the same in every run, and no camera's turn."""
    return frozenset(random.Random(0).sample(range(count), min(count, DECODED)))


def judge_looks(looks: Sequence[Look], where: Path | str) -> list[Finding]:
    """The findings of looks at files."""
    findings = []
    for kind, (severity, message, advice) in WORDS.items():
        items = [look.fault[1] for look in looks if look.fault and look.fault[0] == kind]
        findings += gather(severity, kind, where, items, message, advice)
    findings += gather(
        "note", "image-turned", where, [look.wanted.label for look in looks if look.turned],
        "images with an orientation tag",
        "pixels are taken as they are stored, as in COCO: are the boxes in those pixels?",
    )  # fmt: skip
    findings += gather(
        "warning", "image-blank", where, [look.wanted.label for look in looks if look.blank],
        "images of a single colour", "did the recording or the conversion fail?",
    )  # fmt: skip
    return findings + same_pictures(looks, where)


def same_pictures(looks: Sequence[Look], where: Path | str) -> list[Finding]:
    """Different files that show the very same picture."""
    first: dict[str, Look] = {}
    copies = []
    for look in looks:
        others = [first.setdefault(key, look) for key in look.keys]
        other = next((o for o in others if o.wanted.name != look.wanted.name), None)
        if other is not None:
            copies.append(f"{look.wanted.label} and {other.wanted.label}")
    return gather(
        "warning", "image-copy", where, copies, "files that hold the same picture",
        "remove the copies, or find out why the recording stood still",
    )  # fmt: skip


def look_at(folder: Path, wanted: Wanted, *, decode: bool) -> Look:
    """One file; with ``decode`` every pixel of it."""
    try:
        path = below(folder, wanted.name, wanted.label)
    except ValueError:
        return Look(wanted, ("path-escape", f"{wanted.label}: {wanted.name[:100]}"))
    if not path.is_file():
        return Look(wanted, ("image-missing", str(path)))
    try:
        digest = digest_of(path)
        if not decode:
            return Look(wanted, digest=digest)
        image = open_image(path.read_bytes(), f"{path} is no readable image")
    except (ValueError, OSError) as error:
        return Look(wanted, ("image-corrupt", str(error)))
    turned = orientation(image) != 1
    if wanted.size is not None and (image.height, image.width) != wanted.size:
        swapped = (image.width, image.height) == wanted.size
        words = (
            f"{wanted.label} is {image.height} x {image.width} pixels (height x width), "
            f"annotated as {wanted.size[0]} x {wanted.size[1]}"
            + ("; height and width are swapped" if swapped else "")
        )
        return Look(wanted, ("image-size", words), turned=turned, digest=digest)
    try:
        image.load()  # Pillow says if the end is missing, unlike faster decoders
        pixels = decode_rgb(image, f"{path} is no readable image")
    except DECODE_ERRORS as error:
        return Look(wanted, ("image-corrupt", f"{path} ({str(error)[:100]})"), digest=digest)
    blank = float(pixels.max()) - float(pixels.min()) <= BLANK
    shown = hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
    return Look(wanted, turned=turned, blank=blank, digest=digest, pixels=shown)


def digest_of(path: Path) -> str:
    """The bytes of a file, hashed. Raises ValueError if there are none."""
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def orientation(image: Image.Image) -> int:
    """The orientation tag of an image, 1 if there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except DECODE_ERRORS:
        return 1


def shared_pictures(first: Iterable[Look], second: Iterable[Look], where: str) -> list[Finding]:
    """Pictures that training and evaluation share: same file, same bytes or same pixels."""
    seen = {key for look in first for key in look.keys}
    shared = [look.wanted.name for look in second if seen.intersection(look.keys)]
    return gather(
        "error", "leakage", where, shared, "images of training that are evaluated too",
        "take them out of one of both: the score is of no worth",
    )  # fmt: skip
