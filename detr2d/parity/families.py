"""Which comparison serves which fixture directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from detr2d.parity.deformable_detr import check_deformable_detr
from detr2d.parity.detr import check_detr
from detr2d.parity.dino import check_dino
from detr2d.parity.fixtures import Case, Fixture, Section, read_case, read_fixture
from detr2d.parity.ledger import Ledger, Line
from detr2d.parity.ops import check_detr_ops
from detr2d.parity.ops_deformable import check_deformable_ops, check_dino_ops

Families = Mapping[str, Callable[[Fixture], Iterator[Section]]]
FAMILIES: Families = {
    "detr_": check_detr,
    "deformable_detr_": check_deformable_detr,
    "dino_": check_dino,
}

OPERATORS: dict[str, Callable[[Ledger, Case], None]] = {
    "ops_detr": check_detr_ops,
    "ops_deformable": check_deformable_ops,
    "ops_dino": check_dino_ops,
}


def check_ops(folder: Path) -> Iterator[Section]:
    """All operator files of one directory; those of families that are not built are listed."""
    for path in sorted(folder.glob("ops_*.npz")):
        case = read_case(folder, path.stem)
        check = OPERATORS.get(path.stem)
        ledger = Ledger(case.official)
        if check is None:
            ledger.skip(".*", "operators of a family that is not built yet")
        else:
            check(ledger, case)
        yield Section(path.stem, ledger.finish())


def check_directory(
    folder: Path, fill: Path | None = None, families: Families = FAMILIES
) -> Iterator[Section]:
    """Compare one directory; whatever cannot be read or built is a failure too.

    ``families`` says by the start of a variant's name which comparison serves it.
    """
    try:
        if sorted(folder.glob("ops_*.npz")):
            yield from check_ops(folder)
        else:
            fixture = read_fixture(folder, fill)
            yield from family_of(fixture, families)(fixture)
    except Exception as error:  # a broken directory is a verdict on it, the next one is still read
        reason = f"{type(error).__name__}: {error}"
        yield Section("directory", [Line(str(folder), "FAIL", note=reason)])


def family_of(
    fixture: Fixture, families: Families = FAMILIES
) -> Callable[[Fixture], Iterator[Section]]:
    """The comparison for a variant. Raises ValueError if there is none."""
    for prefix, check in families.items():
        if fixture.variant.startswith(prefix):
            return check
    raise ValueError(
        f"variant {fixture.variant!r} belongs to no known family: {', '.join(families)}"
    )
