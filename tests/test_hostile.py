"""Every system meets every hostile batch, in training and evaluation, alone and on two processes.

A watchdog ends processes that hang. Run it with ``make hostile``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.hostile import WORLDS, cases_of, meet
from tests.helpers.processes import Team

SECONDS = 120.0  # for a case on a busy machine; alone it needs about one

pytestmark = pytest.mark.hostile


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "two processes"])
def team(request: pytest.FixtureRequest) -> Iterator[Team]:
    with Team(request.param) as made:
        yield made


@pytest.mark.parametrize(
    ("system", "case"), [(system, case) for system in WORLDS for case in cases_of(system)]
)
def test_hostile_batches_are_survived(team: Team, system: str, case: str, tmp_path: Path) -> None:
    answers = team.ask(meet, system, case, str(tmp_path), seconds=SECONDS)
    broken = case == "a NaN image"
    for found in answers:
        assert found["finite"], "weights or averages are not finite"
        assert found["skipped"] == (2 if broken else 0)
        assert [loss is None for loss in found["losses"]] == [broken, broken, False]
        assert all(loss is None or math.isfinite(loss) for loss in found["losses"])
        if broken:
            assert "sample nan0" in found["evaluation"]
        else:
            assert len(found["evaluation"]) == len(set(found["evaluation"])) >= 3
    assert len({found["digest"] for found in answers}) == 1, "processes drifted apart"
    assert all(found["evaluation"] == answers[0]["evaluation"] for found in answers)
