"""Seeded mutations of JSON values and of bytes: the corpus is a function of the seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 2**31, 2**63, 2**70, -(2**63), 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "x", "7", "x" * 3000, "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800",
    "NaN", [], {}, [[]], [None], [1, 2], [1, 2, 3], [1, 2, 3, 4], ["x"], {"token": "x"},
    [[1] * 3] * 3,
    [0, 0, 0, 0], [1e308] * 4, {"size": [9, 9], "counts": "0000"}, [[1, 2, 3, 4, 5, 1e12]],
)  # fmt: skip
GARBAGE = (
    b"", b"[", b"]", b"{", b"}", b'"', b",", b"\xff\xfe", b"\xef\xbb\xbf", b"\0" * 64,
    b"[" * 9000, b"NaN",
)  # fmt: skip

Place = tuple[Any, Any]
"""A list or object, and the index or key in it."""


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """JSON text with one to three values changed, or its bytes damaged."""
    if rng.random() < 0.2:
        return mutate_bytes(content, rng)
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list_places(value)
        if not places:
            return json.dumps(rng.choice(HOSTILE)).encode()
        rng.choice(CHANGES)(*rng.choice(places), rng)
    return json.dumps(value).encode()


def list_places(value: Any) -> list[Place]:
    """Every place in a JSON value."""
    places: list[Place] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = holder.keys() if isinstance(holder, dict) else range(len(holder))
        places += [(holder, key) for key in keys]
        children = holder.values() if isinstance(holder, dict) else holder
        waiting += [child for child in children if isinstance(child, dict | list)]
    return places


def replace(holder: Any, key: Any, rng: random.Random) -> None:
    """Put something hostile in a place."""
    holder[key] = copy.deepcopy(rng.choice(HOSTILE))


def remove(holder: Any, key: Any, rng: random.Random) -> None:
    """Take a value away."""
    del holder[key]


def repeat(holder: Any, key: Any, rng: random.Random) -> None:
    """Let an entry of a list stand twice; put the value of a key under another one."""
    if isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[rng.choice(list(holder))] = copy.deepcopy(holder[key])


def wrap(holder: Any, key: Any, rng: random.Random) -> None:
    """Put a value into a list, an object or a text."""
    kinds: tuple[Callable[[Any], Any], ...] = (lambda v: [v], lambda v: {"x": v}, str)
    holder[key] = rng.choice(kinds)(holder[key])


def scale(holder: Any, key: Any, rng: random.Random) -> None:
    """Change the size or the sign of a number."""
    value = holder[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = value * rng.choice((-1, 0, 2, 1000, 1e-9, 1e30))


CHANGES = (replace, replace, replace, remove, repeat, wrap, scale)


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bytes cut off, flipped, inserted, removed or repeated, up to five times."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            del data[at:]
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at:at] = rng.choice(GARBAGE)
        elif kind == 3:
            del data[at : at + rng.choice((1, 4, 100))]
        elif kind == 4:
            data[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        else:
            data[at:at] = data[at : at + rng.choice((8, 500))]
    return bytes(data)
