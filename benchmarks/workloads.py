"""The work that is measured. A new workload is one line of the table; a new kind of work also a flow in `step_host`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One measured piece of work; every repetition does all of it.

    Attributes:
        flow: Name of the flow in `step_host`; its input is `steps`.
        steps: Per run.
        runs: Per repetition.
        at_once: Runs in progress at the same time.
        floor: Its time per step is compared with the raw cost of a round trip and a commit.
        settings: More options of `stepwire engine`.
        warm_up: One repetition goes first and is not measured; not worth it for what mostly sleeps.
    """

    name: str
    title: str
    flow: str
    steps: int
    runs: int
    at_once: int = 1
    floor: bool = False
    settings: tuple[str, ...] = ()
    warm_up: bool = True


_SLEEPY = ("--live-idle", "0.01")
"""Runs that only wait leave memory almost at once, so that every nap costs a wake."""

WORKLOADS = (
    Workload(name="group_100", title="groups of 100, 10 runs at once", flow="group", steps=100, runs=100, at_once=10),
    Workload(name="group_1000", title="groups of 1,000, one run at a time", flow="group", steps=1000, runs=10),
    Workload(
        name="group_1000_4", title="groups of 1,000, 4 runs at once", flow="group", steps=1000, runs=24, at_once=4
    ),
    Workload(name="sequence_10", title="10 steps, 100 runs at once", flow="sequence", steps=10, runs=300, at_once=100),
    Workload(name="one_step", title="one-step runs, one at a time", flow="sequence", steps=1, runs=200),
    Workload(name="sequence", title="one run of 300 sequential steps", flow="sequence", steps=300, runs=1, floor=True),
    Workload(name="group_10000", title="one group of 10,000", flow="group", steps=10_000, runs=1),
    Workload(name="sequence_1000", title="one run of 1,000 sequential steps", flow="sequence", steps=1000, runs=1),
    Workload(name="sequence_10000", title="one run of 10,000 sequential steps", flow="sequence", steps=10_000, runs=1),
    Workload(name="nap_5000", title="5,000 steps, then a nap of 1 s in memory", flow="nap", steps=5000, runs=1),
    Workload(
        name="wake_5000",
        title="5,000 steps, then a nap of 1 s on disk, and the wake",
        flow="nap",
        steps=5000,
        runs=1,
        settings=_SLEEPY,
    ),
    Workload(name="naps_1000", title="1,000 naps of 50 ms in memory", flow="naps", steps=1000, runs=1, warm_up=False),
    Workload(
        name="wakes_1000",
        title="1,000 naps of 50 ms on disk, and 1,000 wakes",
        flow="naps",
        steps=1000,
        runs=1,
        settings=_SLEEPY,
        warm_up=False,
    ),
)
"""What `python -m benchmarks` measures without arguments, in this order."""
