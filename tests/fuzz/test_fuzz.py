"""Damaged files of every kind end in a result or in one clear error."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.mutate import mutate_bytes, mutate_json
from tests.fuzz.runner import HangError, run, time_limit
from tests.fuzz.targets import TARGETS

CONTENT = b'{"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": []}'


def test_the_corpus_is_a_function_of_the_seed() -> None:
    for mutate in (mutate_json, mutate_bytes):
        made = [[mutate(CONTENT, random.Random(seed)) for seed in range(20)] for _ in range(2)]
        assert made[0] == made[1] and len(set(made[0])) > 10


def test_a_hang_is_noticed() -> None:
    with pytest.raises(HangError), time_limit(0.05):
        while True:
            pass


def test_a_hundred_damaged_inputs_are_handled() -> None:
    counts, failures = run(inputs=102, seed=1)
    assert sum(counts.values()) == 102 and len(counts) == len(TARGETS)
    assert failures == []


@pytest.mark.slow
def test_two_thousand_damaged_inputs_are_handled() -> None:
    counts, failures = run(inputs=2100, seed=0)
    assert sum(counts.values()) == 2100
    assert failures == []
