"""Which samples a process sees when: a function of seed, epoch and process alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for one of several processes, in the order of (seed, epoch).

    The processes take turns in one shuffled order, so all of them together see the same samples in
    a step as one process with a batch as large. The order wraps around to give every process as
    many samples. ``start_at`` chooses the epoch and the first batch of the next iteration.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, seed: int, process: int = 0, processes: int = 1
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.process, self.processes = process, processes
        self.epoch = self.first_batch = 0

    def start_at(self, epoch: int, first_batch: int) -> None:
        """Let the next iteration give ``epoch`` from its batch ``first_batch`` on."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        return math.ceil(self.num_samples / (self.batch_size * self.processes))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
        order = torch.randperm(self.num_samples, generator=generator).tolist()
        size = math.ceil(self.num_samples / self.processes) * self.processes
        own = list(itertools.islice(itertools.cycle(order), size))[self.process :: self.processes]
        for first in range(self.first_batch * self.batch_size, len(own), self.batch_size):
            yield [(self.epoch, index) for index in own[first : first + self.batch_size]]


class EpochDataset(Dataset):
    """A dataset asked as (epoch, index): tells it the epoch, in whichever process it lives."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.epoch = dataset, -1

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        if epoch != self.epoch and hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        self.epoch = epoch
        return self.dataset[index]


def mix_seed(*numbers: int) -> int:
    """A 63-bit seed from a few non-negative numbers; neighbours give unrelated seeds."""
    mixed = 0
    for number in numbers:
        mixed = (mixed ^ number) * 0x9E3779B97F4A7C15 % 2**64
        mixed = (mixed ^ (mixed >> 31)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed ^= mixed >> 29
    return mixed >> 1
