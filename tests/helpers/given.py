"""Experiments on samples that a test makes itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from detr2d.config import DataConfig, Report
from detr2d.structures import Detections


class GivenSamples(Dataset):
    """Samples in a list."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


class CountingEvaluator:
    """Says how many detections each sample has."""

    def format(self, batch: Any, detections: list[Detections]) -> dict[str, Any]:
        return {t: len(found) for t, found in zip(batch.tokens, detections, strict=True)}

    def summarize(self, results: dict[str, Any]) -> Report:
        return Report({token: float(count) for token, count in results.items()}, str(results))


@dataclass(frozen=True, kw_only=True)
class GivenData(DataConfig):
    """Data that no config file could hold; made by ``given``."""

    names: tuple[str, ...]
    """Class names."""

    def class_names(self) -> tuple[str, ...]:
        return self.names

    def training_set(self, seed: int) -> GivenSamples:
        return GivenSamples(self.samples)  # type: ignore[attr-defined]

    def evaluation_set(self) -> GivenSamples:
        return GivenSamples(self.samples)  # type: ignore[attr-defined]

    def collate(self, samples: list[Any]) -> Any:
        return self.join(samples)  # type: ignore[attr-defined]

    def evaluator(self, output_dir: Path) -> CountingEvaluator:
        return CountingEvaluator()


def given(
    samples: Sequence[Any], names: tuple[str, ...], join: Callable[[Sequence[Any]], Any]
) -> GivenData:
    """Data of ``samples``, which ``join`` makes batches of."""
    data = GivenData(names=names)
    object.__setattr__(data, "samples", list(samples))  # no fields: tensors are no settings
    object.__setattr__(data, "join", join)
    return data
