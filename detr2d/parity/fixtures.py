"""Read official reference cases: key list, settings, inputs by seed, expected numbers."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detr2d.parity.ledger import Line

FILL_FILE = "fill.py"
FACT_GROUPS = ("losses", "panoptic")


@dataclass(frozen=True)
class Section:
    """Lines on one case, or on the weights of a variant."""

    title: str
    lines: list[Line]

    @property
    def failed(self) -> bool:
        """Whether any quantity failed."""
        return any(line.verdict == "FAIL" for line in self.lines)


@dataclass(frozen=True)
class Case:
    """One case: ``arrays`` of ``case_x.npz`` and ``facts`` of ``case_x.json``."""

    name: str
    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]

    @property
    def official(self) -> dict[str, Any]:
        """Everything to compare by key: arrays, and facts with those of some groups one by one."""
        flat: dict[str, Any] = dict(self.arrays)
        for key, value in self.facts.items():
            if key.startswith("crit"):
                flat |= {f"{key}/losses/{name}": item for name, item in value["losses"].items()}
                flat[f"{key}/facts/num_boxes"] = value["num_boxes"]
            elif key in FACT_GROUPS:
                flat |= {f"{key}/{name}": item for name, item in value.items()}
            else:
                flat[key] = value
        return flat


@dataclass(frozen=True)
class Fixture:
    """One directory: official key list, settings, cases, and the recipe for weights and inputs."""

    folder: Path
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    fill: Mapping[str, Any]

    @property
    def variant(self) -> str:
        """The variant's name."""
        return str(self.config.get("variant", self.folder.name))

    def weights(self) -> dict[str, Tensor]:
        """Deterministic weights for every official key."""
        return self.fill["fill_state_dict"](self.manifest, self.config["salt"])

    def cases(self) -> Iterator[Case]:
        """The cases in order of their names, read one at a time."""
        names = {path.stem for path in self.folder.glob("case_*.*")}
        for name in sorted(names):
            yield read_case(self.folder, name)


def read_fixture(folder: Path, fill: Path | None = None) -> Fixture:
    """Read a fixture directory; ``fill`` is its recipe, else ``fill.py`` in or above the folder.

    The recipe is Python that is run: give only directories that you trust. Raises FileNotFoundError
    if a part is missing and ValueError if a file is not what its name says.
    """
    return Fixture(
        folder,
        read_json(folder / "manifest.json"),
        read_json(folder / "config.json"),
        read_recipe(fill or find_recipe(folder)),
    )


def read_recipe(path: Path) -> dict[str, Any]:
    """The names that a recipe of weights and inputs binds; it is Python that is run."""
    return runpy.run_path(str(path))


def find_recipe(folder: Path) -> Path:
    """The nearest ``fill.py``. Raises FileNotFoundError if there is none."""
    for place in [folder.resolve(), *folder.resolve().parents][:3]:
        if (place / FILL_FILE).is_file():
            return place / FILL_FILE
    raise FileNotFoundError(f"no {FILL_FILE} in or above {folder}: name it with --fill")


def read_case(folder: Path, name: str) -> Case:
    """Read ``name``.npz and ``name``.json. Raises ValueError if one is broken."""
    return Case(name, read_arrays(folder / f"{name}.npz"), read_json(folder / f"{name}.json"))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. Raises ValueError with its name if it is broken."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError with its name if it is broken."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
