from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from det3d.data.resampling import balanced_rows


def index_of(labels: list[list[int]]) -> SimpleNamespace:
    """Samples that show the given labels, each with one lidar point."""
    starts = np.cumsum([0, *(len(sample) for sample in labels)])
    flat = np.array([label for sample in labels for label in sample], dtype=np.int64)
    return SimpleNamespace(
        object_starts=starts, object_labels=flat, object_points=np.ones(len(flat), dtype=np.int64)
    )


def test_a_rare_class_is_drawn_as_often_as_a_common_one() -> None:
    index = index_of([[0]] * 95 + [[3]] * 5)
    rows = balanced_rows(index, np.arange(100), seed=0)
    assert (rows >= 95).sum() == (rows < 95).sum() == 10


def test_the_draw_depends_on_the_seed_only() -> None:
    index = index_of([[0, 1], [1], [2], [0, 8]] * 10)
    first = balanced_rows(index, np.arange(40), seed=1)
    assert np.array_equal(first, balanced_rows(index, np.arange(40), seed=1))
    assert not np.array_equal(first, balanced_rows(index, np.arange(40), seed=2))


def test_objects_without_points_do_not_count() -> None:
    index = index_of([[0], [3]])
    index.object_points[1] = 0
    assert set(balanced_rows(index, np.arange(2), seed=0)) == {0}
    index.object_points[:] = 0
    with pytest.raises(ValueError, match="needs objects"):
        balanced_rows(index, np.arange(2), seed=0)
