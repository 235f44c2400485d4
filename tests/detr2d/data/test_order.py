from __future__ import annotations

import pytest

from detr2d.data.order import EpochBatches, EpochDataset, mix_seed


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 7, 12])
def test_processes_share_every_sample_and_the_same_steps(processes: int, count: int) -> None:
    orders = [
        EpochBatches(count, 2, seed=5, process=process, processes=processes)
        for process in range(processes)
    ]
    batches = [list(order) for order in orders]
    assert {len(own) for own in batches} == {len(orders[0])}
    seen = [index for own in batches for batch in own for _, index in batch]
    assert set(seen) == set(range(count))
    assert len(seen) - count < processes


def test_processes_together_take_the_steps_of_one() -> None:
    alone = list(EpochBatches(12, 4, seed=5))
    pairs = [list(EpochBatches(12, 2, seed=5, process=p, processes=2)) for p in (0, 1)]
    assert [set(batch) for batch in alone] == [
        {*first, *second} for first, second in zip(*pairs, strict=True)
    ]


def test_an_epoch_can_start_in_the_middle_and_epochs_differ() -> None:
    order = EpochBatches(9, 2, seed=0)
    order.start_at(3, 0)
    whole = list(order)
    order.start_at(3, 2)
    assert list(order) == whole[2:]
    order.start_at(4, 0)
    assert [i for batch in order for _, i in batch] != [i for batch in whole for _, i in batch]


def test_a_dataset_hears_of_each_epoch_once() -> None:
    class Listener:
        heard: list[int] = []  # noqa: RUF012

        def set_epoch(self, epoch: int) -> None:
            self.heard.append(epoch)

        def __getitem__(self, index: int) -> int:
            return index

    dataset = EpochDataset(Listener())
    assert [dataset[key] for key in ((0, 5), (0, 6), (2, 7))] == [5, 6, 7]
    assert Listener.heard == [0, 2]


def test_neighbouring_seeds_are_unrelated_and_in_range() -> None:
    seeds = {mix_seed(a, b, c) for a in range(20) for b in range(20) for c in range(4)}
    assert len(seeds) == 1600
    assert all(0 <= seed < 2**63 for seed in seeds)
