"""Runs that are started and awaited, some at once. Only the standard library: peers' own processes use it as well."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Driven:
    """What runs said and took.

    Attributes:
        acknowledged: Steps that their results acknowledge.
        run_seconds: From start to result, of each run.
    """

    acknowledged: int
    run_seconds: tuple[float, ...]


def drive(one_run: Callable[[], int], runs: int, at_once: int) -> Driven:
    """Call `one_run`, which gives the steps that its result acknowledges, `runs` times from `at_once` threads."""

    def timed(_: int) -> tuple[int, float]:
        began = time.perf_counter()
        return one_run(), time.perf_counter() - began

    if at_once == 1:
        done = [timed(number) for number in range(runs)]
    else:
        with ThreadPoolExecutor(at_once) as pool:
            done = list(pool.map(timed, range(runs)))
    return Driven(sum(steps for steps, _ in done), tuple(seconds for _, seconds in done))


LOTS = 2
"""Of runs that are driven together: what the host does for one lot goes on beside the engine's work for the other."""


def drive_together(batch: Callable[[int], int], runs: int, at_once: int) -> Driven:
    """Call `batch`, which starts and awaits so many runs together, from two threads until all runs are done.

    Each thread has half of the runs that are at once. Every run of a batch is said to have taken as long as its batch.
    """
    half = max(1, at_once // LOTS)
    sizes = [min(half, runs - begun) for begun in range(0, runs, half)]

    def timed(size: int) -> tuple[int, list[float]]:
        began = time.perf_counter()
        return batch(size), [time.perf_counter() - began] * size

    with ThreadPoolExecutor(min(LOTS, at_once)) as pool:
        done = list(pool.map(timed, sizes))
    return Driven(sum(steps for steps, _ in done), tuple(seconds for _, each in done for seconds in each))
