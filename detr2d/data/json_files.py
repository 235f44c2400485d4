"""JSON files, read with errors that name them; needs nothing but the standard library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard


def load_json(path: Path) -> Any:
    """The content of a JSON file. Raises FileNotFoundError, or ValueError if it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file: {str(error)[:200]}") from error


def is_number(value: Any) -> bool:
    """Whether this is a finite number that fits double precision; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300  # NaN is not


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether this is a whole number that fits 64 bits; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def are_texts(value: Any) -> bool:
    """Whether this is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def are_numbers(value: Any, count: int) -> bool:
    """Whether this is a list of ``count`` finite numbers."""
    return isinstance(value, list) and len(value) == count and all(map(is_number, value))
