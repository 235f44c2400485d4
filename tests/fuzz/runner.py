"""Hand damaged files to the readers: ``python -m tests.fuzz.runner --inputs 2100 --seed 0``.

Whatever comes in, a reader returns or raises the error that tools show as one line, which names the
file. Anything else is a failure: another exception, more than ``SECONDS`` of processor time, or a
changed file.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from detr2d.config import UserError, user_errors
from tests.fuzz.targets import TARGETS, Target

SECONDS = 20.0  # of processor time for one input; the slowest good ones take a tenth of a second


class HangError(Exception):
    """An input took too long."""


@dataclass(frozen=True)
class Failure:
    """An input that was not handled: its target, number and seed make it again."""

    target: str
    number: int
    file: str
    error: str


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise HangError after so many seconds of processor time."""

    def stop(*_: object) -> None:
        raise HangError(f"more than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fingerprint(folder: Path) -> dict[str, str]:
    """What every file in a folder holds."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fuzz(target: Target, count: int, seed: int, place: Path) -> Iterator[Failure | None]:
    """``count`` inputs of one target below ``place``; None for each that was handled."""
    good, work = place / "good", place / "work"
    good.mkdir(parents=True)
    target.prepare(good)
    files = sorted({p for pattern in target.files for p in good.glob(pattern) if p.is_file()})
    shutil.copytree(good, work)
    for number in range(count):
        rng = random.Random(f"{target.name}/{seed}/{number}")
        name = rng.choice(files).relative_to(good)
        (work / name).write_bytes(target.mutate((good / name).read_bytes(), rng))
        before = fingerprint(work)
        error = attempt(target, work, work / name)
        after = fingerprint(work)
        if error is None and any(after.get(file) != content for file, content in before.items()):
            error = "a file was lost or changed"
        yield None if error is None else Failure(target.name, number, str(name), error)
        shutil.copyfile(good / name, work / name)


def attempt(target: Target, folder: Path, file: Path) -> str | None:
    """What went wrong, None if the input was read or refused with a clear error."""
    try:
        with time_limit(SECONDS), user_errors():
            target.read(folder, file)
    except UserError as error:
        named = any(name in str(error) for name in target.named(file))
        return None if named and str(error).strip() else f"names no file: {str(error)[:200]!r}"
    except SystemExit as stop:
        return None if not stop.code else f"exit code {stop.code}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "/det" in f.filename and "/tests/" not in f.filename] or frames
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"
        return f"{type(error).__name__}: {str(error)[:200]} ({where})"
    return None


def run(inputs: int, seed: int, names: Sequence[str] = ()) -> tuple[Counter[str], list[Failure]]:
    """Fuzz all targets, or those named, with ``inputs`` in all; how many ran, and the failures."""
    chosen = [target for target in TARGETS if not names or target.name in names]
    counts: Counter[str] = Counter()
    failures: list[Failure] = []
    for position, target in enumerate(chosen):
        share = inputs // len(chosen) + (position < inputs % len(chosen))
        with tempfile.TemporaryDirectory() as place:
            for outcome in fuzz(target, share, seed, Path(place)):
                counts[target.name] += 1
                failures += [outcome] if outcome is not None else []
    return counts, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", default=[])
    options = parser.parse_args()
    faulthandler.enable()
    counts, failures = run(options.inputs, options.seed, options.target)
    for failure in failures:
        print(f"{failure.target} {failure.number} ({failure.file}): {failure.error}")
    for name, count in counts.items():
        print(f"{name:<22}{count:>6}")
    print(f"{sum(counts.values())} inputs, {len(failures)} failures, seed {options.seed}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
