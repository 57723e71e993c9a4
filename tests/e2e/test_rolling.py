"""Rolling restarts under load: hosts and engines are replaced one after the other and nobody notices (MISSION P17)."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Callable

import pytest

import stepwire
from stepwire.client import RunHandleSync
from stepwire.errors import EngineUnavailable
from tests.e2e.ledger import Line, lost_work, repeats
from tests.e2e.processes import Engine, Process, Stage, wait_for

HOSTS = ("one", "two", "three")
STARTS_PER_SECOND = 12
STEPS_OF_A_RUN = 6
DRAIN_SECONDS = 20
ENGINES = 2
MINUTES = pytest.mark.timeout(180)


class Load(threading.Thread):
    """Starts runs steadily until it is told to stop. A start that an engine refused is made again, with its id."""

    def __init__(self, client: stepwire.ClientSync) -> None:
        super().__init__(name="load")
        self.handles: list[RunHandleSync[int]] = []
        self.refused = 0
        self.failure: Exception | None = None
        self._client = client
        self._over = threading.Event()

    def run(self) -> None:
        try:
            while not self._over.wait(1 / STARTS_PER_SECOND):
                self.handles.append(self._start(len(self.handles)))
        except Exception as failure:
            self.failure = failure

    def _start(self, number: int) -> RunHandleSync[int]:
        deadline = time.monotonic() + 20
        while True:
            try:
                return self._client.start(("load", "load_sync")[number % 2], number, id=f"run {number}")
            except EngineUnavailable:
                self.refused += 1
                if self._over.wait(0.05) or time.monotonic() > deadline:
                    raise

    def reaches(self, count: int) -> None:
        wait_for(lambda: self.failure or len(self.handles) >= count, f"{count} runs to be started", 60)
        assert self.failure is None

    def end(self) -> None:
        """Stop starting, and check the results of all that were started."""
        self._over.set()
        self.join(30)
        assert self.failure is None and not self.is_alive()
        results = [handle.result(timeout=30) for handle in self.handles]
        assert results == [number + STEPS_OF_A_RUN for number in range(len(results))]


def assert_nothing_was_repeated(stage: Stage, load: Load) -> list[Line]:
    """Every step of every run was begun once, and ended."""
    lines = stage.ledger.refresh()
    assert repeats(lines) == []
    begun = {line.step for line in lines if line.event == "before"}
    assert begun == {line.step for line in lines if line.event == "after"}
    assert len(begun) == STEPS_OF_A_RUN * len(load.handles)
    return lines


def replace(stage: Stage, engine: Engine, name: str, old: Process, *, new_first: bool) -> tuple[Process, float]:
    """A host process in the place of another; the time that the old one took to end."""
    new: Process | None = None
    if new_first:
        new = stage.host(engine, name, drain=DRAIN_SECONDS, flows="rolling_flows")
    old.signal(signal.SIGTERM)
    began = time.monotonic()
    assert old.wait(DRAIN_SECONDS + 2) == 0, old.said
    seconds = time.monotonic() - began
    assert "Traceback" not in old.said
    return new or stage.host(engine, name, drain=DRAIN_SECONDS, flows="rolling_flows"), seconds


@MINUTES
def test_hosts_are_replaced_and_no_step_fails_or_is_repeated(stage: Stage, figure: Callable[[str], None]) -> None:
    engine = stage.engine()
    hosts = dict(zip(HOSTS, stage.hosts(engine, *HOSTS, drain=DRAIN_SECONDS, flows="rolling_flows"), strict=True))
    load = Load(stage.client(engine))
    load.start()
    load.reaches(10)
    drains = []
    for new_first in (True, False):
        for name in HOSTS:
            hosts[name], seconds = replace(stage, engine, name, hosts[name], new_first=new_first)
            drains.append(seconds)
            load.reaches(len(load.handles) + 3)
    load.end()
    lines = assert_nothing_was_repeated(stage, load)
    assert engine.metric('stepwire_attempts_lost_total{cause="stream_end"}') == 0
    assert len({line.pid for line in lines if line.event == "before"}) == 2 * len(HOSTS) + len(HOSTS)
    bodies = sum(line.event == "body" for line in lines)
    figure(
        f"{len(drains)} hosts replaced under {len(load.handles)} runs of {STEPS_OF_A_RUN} steps: 0 failed, 0 repeated; "
        f"drains of {statistics.median(drains):.2f} s (p50), {max(drains):.2f} s (max); "
        f"{bodies - len(load.handles)} bodies moved"
    )


@MINUTES
def test_engines_are_replaced_and_no_step_fails_or_is_repeated(stage: Stage, figure: Callable[[str], None]) -> None:
    engine = stage.engine(drain_timeout=DRAIN_SECONDS)
    stage.hosts(engine, *HOSTS, drain=DRAIN_SECONDS, flows="rolling_flows")
    load = Load(stage.client(engine))
    load.start()
    load.reaches(10)
    drains = []
    for _ in range(ENGINES):
        old = engine.running
        began = time.monotonic()
        assert old.terminate(DRAIN_SECONDS + 2) == 0
        drains.append(time.monotonic() - began)
        assert "Traceback" not in old.said and "still in progress" not in old.said
        engine.start()
        load.reaches(len(load.handles) + 25)
    load.end()
    lines = assert_nothing_was_repeated(stage, load)
    bodies = sum(line.event == "body" for line in lines)
    figure(
        f"{ENGINES} engines replaced under {len(load.handles)} runs of {STEPS_OF_A_RUN} steps: 0 failed, 0 repeated, "
        f"{load.refused} starts refused and made again; drains of {max(drains):.2f} s (max); "
        f"{bodies - len(load.handles)} bodies entered again"
    )


@MINUTES
def test_whoever_is_hurried_under_load_hands_back_and_nothing_is_lost(
    stage: Stage, figure: Callable[[str], None]
) -> None:
    """Two signals each: what was in progress begins again elsewhere at once, what was recorded never."""
    engine = stage.engine(drain_timeout=DRAIN_SECONDS, reconnect_grace=30)
    hosts = stage.hosts(engine, *HOSTS, drain=DRAIN_SECONDS, flows="rolling_flows")
    load = Load(stage.client(engine))
    load.start()
    load.reaches(20)
    for old, name in zip(hosts[:2], HOSTS, strict=False):
        old.signal(signal.SIGTERM)
        old.signal(signal.SIGINT)
        assert old.wait(5) in (0, 130), "0 if nothing was in progress any more"
        assert "Traceback" not in old.said
        stage.host(engine, name, drain=DRAIN_SECONDS, flows="rolling_flows")
    lost = engine.metric('stepwire_attempts_lost_total{cause="stream_end"}')
    engine.running.signal(signal.SIGTERM)
    engine.running.signal(signal.SIGINT)
    assert engine.running.wait(5) == 0 and "Traceback" not in engine.running.said
    engine.start()
    load.reaches(len(load.handles) + 10)
    load.end()
    lines = stage.ledger.refresh()
    assert lost_work(lines) == [] and lost == 0
    figure(f"{len(load.handles)} runs, 2 hosts and an engine hurried: 0 lost, {len(repeats(lines))} steps handed back")
