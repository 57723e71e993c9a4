"""Hosts that live and do nothing: stopped, without the GIL, with a blocked loop, without the thread that reads.

The default settings of the engine: what hangs is replaced within 15 s, and what it says afterwards is stale (H2).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from stepwire import ClientSync
from tests.e2e.faults.deaths import DIE_ENV, READER
from tests.e2e.ledger import Line, lost_work
from tests.e2e.processes import Engine, Process, Stage, wait_for

ELSEWHERE_SECONDS = 15.0
GIL_SECONDS = 17.0
"""Longer than silence and grace."""
BLOCKED_SECONDS = 10.0
FLOWS = {"flows": "faults.host_flows"}


@dataclass
class Hanging:
    """An engine with default settings, and a host that hangs in each way, all since about the same time."""

    stage: Stage
    engine: Engine
    client: ClientSync
    hosts: dict[str, Process]
    runs: dict[str, str]
    since: dict[str, float]

    def begun(self, name: str) -> list[Line]:
        return self.stage.ledger.of(self.runs[name], "before")

    def elsewhere(self, name: str) -> float:
        """Seconds until the step of this host was begun again by another one."""
        wait_for(lambda: len(self.begun(name)) == 2, f"the step of {name} to be begun elsewhere", 20)
        first, second = self.begun(name)
        assert first.host == name and second.host != name
        return second.at - self.since[name]

    def finished(self, name: str) -> list[Line]:
        return self.stage.ledger.of(self.runs[name], "after")

    def ends_once(self, name: str) -> None:
        """The run succeeds, and its record has one outcome."""

        def ended() -> bool:
            return self.client.get(self.runs[name]).state.terminal

        wait_for(ended, f"the run of {name} to end")
        record = self.client.get(self.runs[name], steps=True)
        assert (record.state, [len(step.attempts) for step in record.steps]) == ("SUCCEEDED", [1])


@pytest.fixture(scope="module")
def hanging(shared_stage: Stage) -> Iterator[Hanging]:
    """Each host gets its run while it is the only one that has room for a body more."""
    stage = shared_stage
    engine = stage.engine()
    client = stage.client(engine)
    hosts, runs = {}, {}
    for name, flow, payload in (("stopped", "one_gated", None), ("gil", "holding", GIL_SECONDS)):
        hosts[name] = stage.hosts(engine, name, wait=False, **FLOWS)[0]
        hosts[name].says("connected to engine")
        runs[name] = client.start(flow, payload).run_id
        wait_for(lambda name=name: stage.ledger.of(runs[name], "before"), f"the step of {name}")
    hosts["spare"] = stage.host(engine, "spare", **FLOWS)
    stopped_at = time.monotonic()
    hosts["stopped"].signal(signal.SIGSTOP)
    (gil,) = stage.ledger.of(runs["gil"], "before")
    made = Hanging(stage, engine, client, hosts, runs, {"stopped": stopped_at, "gil": gil.at})
    yield made
    hosts["stopped"].signal(signal.SIGCONT)


@pytest.mark.timeout(60)
def test_a_blocked_loop_loses_nothing_and_gets_nothing_new(hanging: Hanging, stage: Stage) -> None:
    """The hanging hosts hang meanwhile, on an engine of their own."""
    assert hanging.hosts["gil"].running
    engine = stage.engine(heartbeat_interval=0.25)
    client = stage.client(engine)
    blocked = stage.host(engine, "blocked")
    beside = client.start("one_gated_sync")
    stage.gates.arrived(beside.run_id, "gated")
    blocking = client.start("blocking_loop", BLOCKED_SECONDS)
    wait_for(lambda: stage.ledger.of(blocking.run_id, "before"), "the loop to be blocked")
    heard = engine.metric('stepwire_frames_total{direction="in"}')
    # Nobody else reports: after so many one says that the loop is later than a host's may be.
    wait_for(lambda: engine.metric('stepwire_frames_total{direction="in"}') >= heard + 8, "reports of the blocked host")
    other = stage.host(engine, "other")
    runs = [client.start("gate_between") for _ in range(6)]
    for run in runs:
        stage.gates.open(run.run_id, "gated")
        assert run.result(timeout=10) == ["first", "gated", "last"]
    stage.gates.open(beside.run_id, "gated")
    stage.acked(beside.run_id, "gated")
    assert not stage.ledger.of(blocking.run_id, "after"), "all of that happened while the loop was blocked"
    assert {line.host for run in runs for line in stage.ledger.of(run.run_id, "before")} == {"other"}
    assert (blocking.result(timeout=20), beside.result(timeout=20)) == ("blocked", "done")
    assert stage.ledger.count("before", blocking.run_id) == {"block": 1}
    assert all(
        engine.metric(f'stepwire_attempts_lost_total{{cause="{cause}"}}') == 0 for cause in ("silence", "stream_end")
    )
    assert blocked.said.count("connected to engine") == other.said.count("connected to engine") == 1


@pytest.mark.timeout(90)
def test_a_stopped_host_is_replaced_and_its_late_result_is_stale(
    hanging: Hanging, figure: Callable[[str], None]
) -> None:
    seconds = hanging.elsewhere("stopped")
    figure(f"SIGSTOP: the step began elsewhere after {seconds:.1f} s")
    assert seconds <= ELSEWHERE_SECONDS
    hanging.stage.gates.open(hanging.runs["stopped"], "gated")
    hanging.ends_once("stopped")
    hanging.hosts["stopped"].signal(signal.SIGCONT)
    wait_for(lambda: hanging.hosts["stopped"].said.count("connected to engine") == 2, "it to be back")
    wait_for(lambda: len(hanging.finished("stopped")) == 2, "its step to end as well")
    hanging.ends_once("stopped")


@pytest.mark.timeout(90)
def test_a_host_whose_gil_is_held_is_replaced_and_its_late_result_is_stale(
    hanging: Hanging, figure: Callable[[str], None]
) -> None:
    seconds = hanging.elsewhere("gil")
    figure(f"GIL held for {GIL_SECONDS:g} s: the step began elsewhere after {seconds:.1f} s")
    assert seconds <= ELSEWHERE_SECONDS
    hanging.ends_once("gil")
    wait_for(lambda: hanging.engine.metric("stepwire_stale_results_total") == 2, "the late results of both")
    assert len(hanging.finished("gil")) == 2
    hanging.ends_once("gil")
    assert lost_work(hanging.stage.ledger.refresh()) == []


@pytest.mark.timeout(60)
def test_a_host_whose_reading_thread_ended_says_so_and_ends(stage: Stage) -> None:
    engine = stage.engine(reconnect_grace=0.5)
    client = stage.client(engine)
    lame = stage.host(engine, "lame", **FLOWS, **{DIE_ENV: READER})
    run = client.start("one_gated")
    lame.says("the session thread of this host ended")
    stage.host(engine, "other", **FLOWS)
    stage.gates.arrived(run.run_id, "gated")
    stage.gates.open(run.run_id, "gated")
    assert run.result(timeout=15) == "done"
    assert {line.host for line in stage.ledger.of(run.run_id, "before")} == {"other"}
    assert lame.wait() == 4, "nobody takes it for a host that serves"
