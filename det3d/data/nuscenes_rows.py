"""Rows of the JSON tables of a nuScenes-format database, read and checked one value at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from detr2d.data.json_files import are_numbers, is_integer

Row = dict[str, Any]
T = TypeVar("T")


class Kept:
    """What a row was reduced to; tells rows from whatever else stands in a list."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def text_of(row: Row, key: str) -> str:
    """A text of a row. Raises ValueError if it is none."""
    if not isinstance(row[key], str):
        raise ValueError(f"{key} must be a text, got {str(row[key])[:60]}")
    return row[key]


def integer_of(row: Row, key: str) -> int:
    """A whole number of a row. Raises ValueError if it is none."""
    if not is_integer(row[key]):
        raise ValueError(f"{key} must be an integer, got {str(row[key])[:60]}")
    return row[key]


def numbers_of(row: Row, key: str, count: int) -> list[float]:
    """Finite numbers of a row. Raises ValueError if they are not so many."""
    if not are_numbers(row[key], count):
        raise ValueError(f"{key} must be {count} finite numbers, got {str(row[key])[:60]}")
    return row[key]


def read_table(path: Path, keep: Callable[[Row], T | None]) -> list[T]:
    """The rows of a JSON table, each reduced by ``keep``; rows that become None are dropped.

    Raises ValueError naming the file if it is not JSON, or if a row lacks a key or has something
    else under it.
    """
    try:
        with path.open(encoding="utf-8") as file:
            rows = json.load(file, object_hook=lambda row: Kept(keep(row)))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} has a row without the key {error}") from error
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} has a malformed row: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, Kept) for row in rows):
        raise ValueError(f"{path} is no table: expected a list of rows")
    return [row.value for row in rows if row.value is not None]


def find(mapping: Mapping[str, T], token: str, table: str, user: str) -> T:
    """The entry of ``token``. Raises ValueError saying which table lacks it and who needs it."""
    if token not in mapping:
        raise ValueError(f"table {table} has no row {token!r}, which {user} refers to")
    return mapping[token]
