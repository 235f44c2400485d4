"""Randomness of data sets that depends on seed, epoch and item only, never on the process."""

from __future__ import annotations

import numpy as np
import torch


class ItemRandomness:
    """A random generator for each item of each epoch, the same in whichever process asks.

    The epoch lies in shared memory, so that workers that live longer than an epoch see it change.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch for this process and all its workers."""
        self._epoch.fill_(epoch)

    def generator(self, item: int) -> torch.Generator:
        """A fresh generator for ``item`` in the current epoch."""
        mixed = np.random.SeedSequence([self.seed, int(self._epoch), item])
        return torch.Generator().manual_seed(int(mixed.generate_state(1, np.uint64)[0]) >> 1)
