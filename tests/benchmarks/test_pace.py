"""Cores that others slow: noticed, waited for, measured again."""

from __future__ import annotations

import os

import pytest

from benchmarks.pace import LOOK_SECONDS, SLOWED_MAX, Pace, spin_on
from benchmarks.session import _paced
from benchmarks.stage import Point


class Cores:
    """Two cores whose loops take what the test says, look by look; the last look holds."""

    def __init__(self, *looks: tuple[float, float]) -> None:
        self.looks = list(looks)
        self.now = 0.0
        self.pace = Pace(self.spin, lambda: [0, 1], self.sleep, lambda: self.now)

    def spin(self, core: int) -> float:
        taken = self.looks[0][core]
        if core == 1 and len(self.looks) > 1:
            self.looks.pop(0)
        return taken

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_slowest_core_counts_and_the_fastest_loop_ever_is_one() -> None:
    cores = Cores((4.0, 8.0), (4.0, 4.0), (5.0, 2.0))
    assert [cores.pace.slowed() for _ in range(3)] == [2.0, 1.0, 2.5]
    assert cores.pace.fastest == 2.0


def test_it_waits_until_all_cores_are_calm() -> None:
    cores = Cores((1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (1.0, SLOWED_MAX))
    cores.pace.slowed()
    assert cores.pace.wait(60) == SLOWED_MAX and cores.now == 2 * LOOK_SECONDS


def test_it_does_not_wait_longer_than_it_may_and_says_what_it_found() -> None:
    cores = Cores((1.0, 1.0), (1.0, 2.0))
    cores.pace.slowed()
    assert cores.pace.wait(1.0) == 2.0 and 1.0 <= cores.now < 1.0 + 2 * LOOK_SECONDS
    assert cores.pace.wait(0.0) == 2.0, "a look, and no wait"


@pytest.mark.parametrize(
    ("looks", "again", "measured", "slowed"),
    [
        (((1, 1),), 3, 1, 1.0),
        (((1, 2), (1, 1)), 3, 2, 1.0),
        (((1, 2), (1, 2), (1, 3), (1, 1)), 2, 3, 3.0),
        (((1, 2),), 0, 1, 2.0),
    ],
    ids=["calm", "once more", "no more", "never"],
)
def test_what_was_slowed_is_measured_again(
    looks: tuple[tuple[float, float], ...], again: int, measured: int, slowed: float
) -> None:
    cores = Cores(*looks)
    made: list[int] = []

    def measure() -> list[Point]:
        made.append(1)
        return [Point({"seconds": float(len(made))}), Point({"seconds": 0.0, "slowed": 1.0})]

    [first, second] = _paced(measure, cores.pace, again)
    assert len(made) == measured == first.figures["seconds"]
    assert first.figures["slowed"] == second.figures["slowed"] == slowed


def test_one_that_began_slowed_counts_as_slowed() -> None:
    begun = [Point({"slowed": 2.0})]
    [point] = _paced(lambda: begun, Cores((1.0, 1.0)).pace, 0)
    assert point.figures["slowed"] == 2.0


def test_a_look_leaves_the_thread_where_it_may_run() -> None:
    before = os.sched_getaffinity(0)
    assert all(0 < spin_on(core) < 60 for core in before)
    assert os.sched_getaffinity(0) == before
