import numpy as np
import pytest

from det3d.data.toy_motion import (
    cruising,
    footprints_overlap,
    resting,
    stopping,
    straight,
    turning,
)


@pytest.mark.parametrize("turn", [np.pi / 2, -np.pi / 2])
def test_a_turning_path_heads_where_it_goes(turn):
    path = turning((0, -2), 0.0, (3, 0), turn, 8.0)
    distances = np.linspace(250, 350, 400)
    poses = path.at(distances)
    steps = np.diff(poses[:, :2], axis=0)
    travelled = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    assert np.abs(travelled - poses[:-1, 2]).max() < 0.06
    assert poses[0, 2] == pytest.approx(0)
    assert poses[-1, 2] == pytest.approx(turn)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 0.25, atol=0.01)


def test_turning_between_parallel_lines_is_refused():
    with pytest.raises(ValueError, match="parallel"):
        turning((0, 0), 0.0, (0, 5), 0.0, 8.0)


def test_stopping_halts_at_the_line_for_the_given_time_and_drives_on():
    motion = stopping(straight((0, 0), 0.0, 100), 40.0, 8.0, 5.0, 3.0, (0.0, 20.0))
    np.testing.assert_allclose(motion.poses([5.0, 6.5, 8.0])[:, 0], 40.0, atol=0.05)
    assert motion.speed(1.0) == pytest.approx(8.0)
    assert motion.speed(6.0) == pytest.approx(0.0)
    assert motion.speed(15.0) == pytest.approx(8.0)
    assert motion.poses(0.0)[0] == pytest.approx(40 - 8 * 5 + 8**2 / (2 * 2.5), abs=0.05)


def test_cruising_covers_speed_times_time():
    motion = cruising(straight((1, 2), np.pi / 2, 10), 3.0, 2.0, (-1.0, 30.0))
    np.testing.assert_allclose(motion.poses(10.0), (1, 2 + 23, np.pi / 2), atol=1e-9)
    assert resting(1, 2, 3).speed(4.0) == 0


@pytest.mark.parametrize(
    ("other", "expected"),
    [((3.9, 0, 0), True), ((4.1, 0, 0), False), ((0, 2.1, 0), False), ((0, 2.9, np.pi / 2), True),
     ((0, 3.1, np.pi / 2), False), ((3.2, 3.2, np.pi / 4), False), ((2.0, 1.7, np.pi / 4), True)],
)  # fmt: skip
def test_footprints_of_four_by_two_metres_overlap_as_drawn_on_paper(other, expected):
    half = np.array([2.0, 1.0])
    assert footprints_overlap(np.zeros(3), half, np.array(other, float), half) == expected
