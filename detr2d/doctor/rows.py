"""JSON rows sorted into those that can be read on and those that are broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from detr2d.data.json_files import are_numbers, are_texts, is_integer, is_number, load_json
from detr2d.doctor.findings import Finding, gather

Row = dict[str, Any]
Check = Callable[[Any], bool]
Schema = Mapping[str, tuple[Check, str]]
"""For each key a test of its value and the words for what was expected."""


def is_text(value: Any) -> bool:
    """A text, an empty one too."""
    return isinstance(value, str)


def is_filled(value: Any) -> bool:
    """A text that is not empty."""
    return isinstance(value, str) and bool(value)


def is_positive(value: Any) -> bool:
    """A whole number above zero."""
    return is_integer(value) and value > 0


def is_count(value: Any) -> bool:
    """A whole number that is not negative."""
    return is_integer(value) and value >= 0


def numbers(count: int) -> tuple[Check, str]:
    """A list of ``count`` finite numbers."""

    return lambda value: are_numbers(value, count), f"{count} finite numbers"


INTEGER: tuple[Check, str] = (is_integer, "an integer")
NUMBER: tuple[Check, str] = (is_number, "a finite number")
TEXT = (is_text, "a text")
FILLED = (is_filled, "a text that is not empty")
TEXTS = (are_texts, "a list of texts")
POSITIVE = (is_positive, "a positive integer")
COUNT = (is_count, "an integer that is not negative")


def read_list(path: Path) -> tuple[Any, list[Finding]]:
    """The content of a JSON file, None with a finding if it cannot be read."""
    try:
        return load_json(path), []
    except FileNotFoundError:
        finding = Finding("error", "file-missing", str(path), "the file does not exist")
    except (OSError, ValueError) as error:
        said = str(error)[:300]
        advice = "get the file again: it is probably cut off or something else"
        finding = Finding("error", "file-unreadable", str(path), said, advice)
    return None, [finding]


def sort_rows(
    rows: Iterable[Any], schema: Schema, where: Path | str, name: str
) -> tuple[list[Row], list[Finding]]:
    """The rows that have every key of ``schema`` as it should be, and a finding for the others."""
    good: list[Row] = []
    complaints: list[str] = []
    for number, row in enumerate(rows):
        complaint = complain(row, schema)
        if complaint is None:
            good.append(row)
        else:
            named = row if isinstance(row, dict) else {}
            label = named.get("id", named.get("token", f"number {number}"))
            complaints.append(f"{name} {str(label)[:40]}: {complaint}")
    advice = "correct these rows; the other checks leave them out"
    return good, gather(
        "error", "malformed-row", where, complaints, f"malformed {name} rows", advice
    )


def complain(row: Any, schema: Schema) -> str | None:
    """What is wrong with the first wrong key of a row, None if nothing is."""
    if not isinstance(row, dict):
        return f"expected an object, got {str(row)[:40]!r}"
    for key, (check, expected) in schema.items():
        if key not in row:
            return f"{key} is missing"
        if not check(row[key]):
            return f"{key} must be {expected}, got {str(row[key])[:60]}"
    return None


def repeated(values: Iterable[Any]) -> list[Any]:
    """The values that appear more than once, in order."""
    return [value for value, count in Counter(values).items() if count > 1]
