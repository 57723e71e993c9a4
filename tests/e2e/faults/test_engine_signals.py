"""SIGTERM to an engine under load, once or twice: it ends in time with exit code 0, and nothing is lost or repeated."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import stepwire
from stepwire.client import RunHandleSync
from tests.e2e.faults.insistence import insist
from tests.e2e.faults.truth import family, judge
from tests.e2e.processes import Engine, Stage

CYCLES = 6
DRAIN_SECONDS = 1.0
SLACK_SECONDS = 8.0
"""MISSION P11 gives it 2 s after the drain timeout, then it ends by force, which its exit code would tell. The rest is
what a busy machine takes."""
CUSTOMERS = 4


class Customers:
    """Threads that keep starting runs, one after the other."""

    def __init__(self, client: stepwire.ClientSync) -> None:
        self.runs: list[RunHandleSync[list[str]]] = []
        self.client = client
        self._over = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._keep_starting, args=(number,)) for number in range(CUSTOMERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _keep_starting(self, customer: int) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            key = f"{customer}-{count}"
            run = insist(lambda key=key: self.client.start("child", id=key))
            self.runs.append(run)
            run.result(timeout=30)


def end(engine: Engine, *, twice_after: float | None) -> float:
    """SIGTERM, and once more after so many seconds; how long it took until the end."""
    process = engine.running
    began = time.monotonic()
    process.signal(signal.SIGTERM)
    if twice_after is not None:
        time.sleep(twice_after)  # gate: the second signal's own random moment
        if process.running:
            process.signal(signal.SIGTERM)
    assert process.wait() == 0
    seconds = time.monotonic() - began
    assert "Traceback" not in process.said
    return seconds


@pytest.mark.timeout(60)
def test_sigterm_under_load(stage: Stage, rng: random.Random, figure: Callable[[str], None]) -> None:
    engine = stage.engine(drain_timeout=DRAIN_SECONDS, adoption_grace=20, reconnect_grace=20)
    stage.hosts(engine, "one", "two", flows="faults.engine_flows")
    customers = Customers(stage.client(engine))
    took = []
    with customers.at_work():
        for cycle in range(CYCLES):
            time.sleep(rng.uniform(0, 0.3))  # gate: the signal's own random moment
            took.append(end(engine, twice_after=rng.uniform(0, 0.3) if cycle % 2 else None))
            engine.start()
    verdict = judge(family(customers.client, *(run.run_id for run in customers.runs)), stage.ledger.refresh())
    figure(f"{CYCLES} SIGTERM under load, every other one twice: {verdict}; the slowest end took {max(took):.2f} s")
    verdict.assert_kept()
    assert len(customers.runs) >= CUSTOMERS, "every customer has a run"
    assert max(took) <= DRAIN_SECONDS + SLACK_SECONDS
