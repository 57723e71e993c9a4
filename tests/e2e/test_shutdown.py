"""SIGTERM to engine and host: exit 0 in time, nothing lost; a second one ends at once (MISSION P11)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwire.client import RunHandleSync
from tests.e2e.processes import COMMAND, READY, Engine, Process, Stage, wait_for
from tests.e2e.test_compensation import UNDOS, Order
from tests.evicting import Entries

DRAIN_SECONDS = 1.0
SLACK_SECONDS = 6.0
"""What a busy machine may take besides. What must not be waited for takes longer."""
FORCE_SECONDS = 2.0
"""After its drain timeout a process ends by force, whatever hangs."""
TICKS = range(3, 8)
RESTARTS = 12


def seconds_to_end(process: Process) -> tuple[int, float]:
    """The exit code and the time from now until the end."""
    began = time.monotonic()
    return process.wait(), time.monotonic() - began


def at_its_gate(stage: Stage, engine: Engine) -> RunHandleSync[list[str]]:
    """A run whose second step waits at its gate."""
    run = stage.client(engine).start("gate_between")
    stage.gates.arrived(run.run_id, "gated")
    return run


def planned_of(run: RunHandleSync[list[str]]) -> None:
    """Wait until a plan of the run is committed."""
    wait_for(lambda: run.get(steps=True).steps, "a plan to be committed")


def assert_completed(stage: Stage, run: RunHandleSync[list[str]]) -> None:
    """The right result, and each step ran once."""
    assert run.result(timeout=15) == ["first", "gated", "last"]
    assert stage.ledger.count("before", run.run_id) == {"first": 1, "gated": 1, "last": 1}


def test_the_engine_ends_within_its_drain_timeout(stage: Stage) -> None:
    engine = stage.engine(drain_timeout=DRAIN_SECONDS)
    stage.host(engine, "stays")
    at_its_gate(stage, engine)
    engine.running.signal(signal.SIGTERM)
    code, seconds = seconds_to_end(engine.running)
    assert code == 0
    assert seconds < DRAIN_SECONDS + SLACK_SECONDS


@pytest.mark.parametrize("opened", ["while it is down", "after the restart"])
def test_the_engine_drains_and_the_step_is_adopted(stage: Stage, opened: str) -> None:
    engine = stage.engine(drain_timeout=DRAIN_SECONDS)
    host = stage.host(engine, "stays")
    run = at_its_gate(stage, engine)
    assert engine.running.terminate() == 0
    assert "Traceback" not in engine.running.said

    if opened == "while it is down":
        stage.gates.open(run.run_id, "gated")
        wait_for(lambda: "gated" in stage.ledger.count("after", run.run_id), "the step to end without an engine")
    engine.start()
    if opened == "after the restart":
        stage.gates.open(run.run_id, "gated")
    assert_completed(stage, run)
    assert host.running and len(stage.ledger.of(run.run_id, "body")) == Entries(1), "the live body was kept"


def test_the_engine_waits_for_what_runs(stage: Stage) -> None:
    """Within the drain timeout a step that ends is committed; no new one is begun."""
    engine = stage.engine(drain_timeout=10)
    stage.host(engine, "stays")
    run = at_its_gate(stage, engine)
    engine.running.signal(signal.SIGTERM)
    engine.running.says("draining")
    stage.gates.open(run.run_id, "gated")
    code, seconds = seconds_to_end(engine.running)
    assert code == 0 and seconds < SLACK_SECONDS, "it ends as soon as nothing runs"
    engine.start()
    assert_completed(stage, run)


def test_a_second_sigterm_ends_the_engine_at_once(stage: Stage) -> None:
    engine = stage.engine(drain_timeout=60)
    stage.host(engine, "stays")
    run = at_its_gate(stage, engine)
    engine.running.signal(signal.SIGTERM)
    engine.running.says("draining")
    assert engine.running.running
    engine.running.signal(signal.SIGTERM)
    code, seconds = seconds_to_end(engine.running)
    assert code == 0 and seconds < SLACK_SECONDS
    engine.start()
    stage.gates.open(run.run_id, "gated")
    assert_completed(stage, run)


def test_a_host_drains_and_the_run_goes_on_elsewhere(stage: Stage) -> None:
    engine = stage.engine()
    leaving = stage.host(engine, "leaving")
    run = at_its_gate(stage, engine)
    stage.host(engine, "staying")
    leaving.signal(signal.SIGTERM)
    stage.draining(leaving)
    stage.gates.open(run.run_id, "gated")
    code, seconds = seconds_to_end(leaving)
    assert code == 0 and seconds < SLACK_SECONDS
    assert_completed(stage, run)


@pytest.mark.timeout(60)
def test_a_step_that_ends_while_its_host_begins_to_drain(stage: Stage) -> None:
    """Whatever tick of the loop it ends in: a result that exists when the host says Goodbye is not thrown away."""
    engine = stage.engine()
    client = stage.client(engine)
    again = {}
    for ticks in TICKS:
        host = stage.host(engine, f"leaving-{ticks}")
        run = client.start("leaving", ticks)
        stage.gates.arrived(run.run_id, "leave")
        planned_of(run)
        stage.gates.open(run.run_id, "leave")
        assert host.wait() == 0
        following = stage.host(engine, "following")
        assert run.result(timeout=10) == ["left", "last"]
        again[ticks] = stage.ledger.count("before", run.run_id)["leave"] - 1
        assert following.terminate() == 0
    assert not any(again.values()), f"ticks and re-executions: {again}"


@pytest.mark.timeout(90)
def test_a_host_comes_back_after_every_restart(stage: Stage) -> None:
    """It dials at once when its stream ends, hence often an engine that is just ending."""
    engine = stage.engine()
    stage.host(engine, "stays")
    for _ in range(RESTARTS):
        assert engine.running.terminate() == 0
        engine.start().running.says("host stays connected", 10)


def test_a_host_that_leaves_an_idle_engine(stage: Stage) -> None:
    engine = stage.engine()
    leaving = stage.host(engine, "leaving")
    assert leaving.terminate() == 0
    assert "Traceback" not in leaving.said
    run = stage.client(engine).start("plus_one", 1)
    stage.host(engine, "staying")
    assert run.result(timeout=15) == 2


def test_a_host_that_drains_too_long_gives_its_step_back(stage: Stage) -> None:
    """After the drain timeout the step is begun elsewhere: its result was never acked."""
    engine = stage.engine()
    leaving = stage.host(engine, "leaving", drain=0.5)
    run = at_its_gate(stage, engine)
    stage.host(engine, "staying")
    leaving.signal(signal.SIGTERM)
    code, seconds = seconds_to_end(leaving)
    assert code == 0 and seconds < 0.5 + FORCE_SECONDS + SLACK_SECONDS
    wait_for(lambda: stage.ledger.count("before", run.run_id)["gated"] == 2, "the step to begin on the other host")
    stage.gates.open(run.run_id, "gated")
    assert run.result(timeout=15) == ["first", "gated", "last"]
    assert stage.ledger.count("before", run.run_id)["first"] == 1


def no_attempt_was_lost(engine: Engine) -> bool:
    """Nothing counts towards the bound of steps that kill their hosts."""
    return not any(engine.metric(f'stepwire_attempts_lost_total{{cause="{c}"}}') for c in ("silence", "stream_end"))


def test_a_second_sigterm_ends_a_host_at_once_and_hands_back(stage: Stage) -> None:
    engine = stage.engine()
    leaving = stage.host(engine, "leaving", drain=60)
    run = at_its_gate(stage, engine)
    leaving.signal(signal.SIGTERM)
    stage.draining(leaving)
    assert leaving.running
    stage.host(engine, "staying")
    leaving.signal(signal.SIGTERM)
    code, seconds = seconds_to_end(leaving)
    assert code == 130 and seconds < SLACK_SECONDS
    stage.gates.arrived(run.run_id, "gated", times=2)
    assert no_attempt_was_lost(engine)
    stage.gates.open(run.run_id, "gated")
    assert run.result(timeout=15) == ["first", "gated", "last"]
    assert stage.ledger.count("before", run.run_id)["first"] == 1


@pytest.mark.parametrize(
    ("flow", "path", "value", "exits"),
    [
        ("one_gated_sync", "gated", None, 0),
        ("stays_on", "stay", 60.0, 0),
        ("blocking_loop", "block", 60.0, 1),
    ],
    ids=["a thread that goes on", "a coroutine that goes on", "a blocked loop"],
)
def test_code_that_does_not_stop_holds_no_exit(stage: Stage, flow: str, path: str, value: Any, exits: int) -> None:
    """Its attempt is handed back by name: it begins elsewhere at once, and nothing counts as lost."""
    engine = stage.engine(reconnect_grace=30)
    leaving = stage.host(engine, "leaving", drain=DRAIN_SECONDS)
    run = stage.client(engine).start(flow, value) if value else stage.client(engine).start(flow)
    wait_for(lambda: stage.ledger.count("before", run.run_id)[path] == 1, "the step to begin")
    if flow != "blocking_loop":  # Its plan is kept back by the very loop that it blocks.
        planned_of(run)
    stage.host(engine, "staying")
    leaving.signal(signal.SIGTERM)
    code, seconds = seconds_to_end(leaving)
    assert (code, seconds < DRAIN_SECONDS + FORCE_SECONDS + SLACK_SECONDS) == (exits, True), leaving.said
    assert "Traceback" not in leaving.said
    wait_for(lambda: stage.ledger.count("before", run.run_id)[path] == 2, "the step to begin elsewhere", 10)
    assert no_attempt_was_lost(engine)


def test_a_host_that_drains_without_an_engine_keeps_its_results_for_the_next_one(stage: Stage) -> None:
    engine = stage.engine()
    leaving = stage.host(engine, "leaving", drain=15)
    run = at_its_gate(stage, engine)
    engine.kill()
    leaving.says("no engine at")
    leaving.signal(signal.SIGTERM)
    stage.draining(leaving)
    stage.gates.open(run.run_id, "gated")
    wait_for(lambda: "gated" in stage.ledger.count("after", run.run_id), "the step to end without an engine")
    engine.start()
    assert leaving.wait() == 0
    stage.host(engine, "following")
    assert_completed(stage, run)
    assert leaving.said.count("no engine at") == 1, "said once, not at every try"


def test_a_host_that_never_had_an_engine_ends_at_once(stage: Stage) -> None:
    engine = stage.engine()
    engine.kill()
    (host,) = stage.hosts(engine, "alone", wait=False)
    host.says("no engine at")
    host.signal(signal.SIGTERM)
    code, seconds = seconds_to_end(host)
    assert code == 0 and seconds < SLACK_SECONDS


@pytest.mark.timeout(60)
def test_hosts_drain_at_every_undo_and_each_runs_once(stage: Stage) -> None:
    order = Order(stage)
    for path in UNDOS:
        stage.gates.arrived(order.run.run_id, path)
        name = order.host_of(path)
        leaving = order.hosts[name]
        leaving.signal(signal.SIGTERM)
        stage.draining(leaving)
        stage.gates.open(order.run.run_id, path)
        assert leaving.wait() == 0
        order.start_host(name)
    assert list(order.ended()) != [] and order.ran("before") == order.ran("after") == UNDOS
    assert no_attempt_was_lost(order.engine)


# ---- moments


def has_open(process: Process, file: Path) -> bool:
    try:
        return str(file) in [os.readlink(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir()]
    except FileNotFoundError:
        return False  # One was closed meanwhile; the next look tells.


MOMENTS: dict[str, tuple[Callable[[Process, Path], object], tuple[int, ...]]] = {
    "begins": (lambda process, db: process.running, (0, -signal.SIGTERM)),
    "opens its database": (lambda process, db: has_open(process, db), (0,)),
    "is ready": (lambda process, db: READY.search(process.said), (0,)),
}
"""How it is seen that a starting engine is there, and the exit codes of a SIGTERM at that moment.

Until Python has loaded what the engine consists of, nobody listens: -15, and nothing has begun.
"""


def test_sigterm_while_the_engine_starts(stage: Stage) -> None:
    """Whenever it comes: no traceback, and the database is fine."""
    engine = stage.engine()
    engine.running.terminate()
    for moment, (is_there, codes) in MOMENTS.items():
        process = stage.launch(engine)
        wait_for(lambda now=process, there=is_there: there(now, engine.db), f"the moment when it {moment}")
        assert process.terminate(10) in codes and "Traceback" not in process.said, process.said
    engine.start()
    stage.host(engine, "stays")
    assert stage.client(engine).start("plus_one", 1).result(timeout=15) == 2


HANGS = """
import time
from stepwire_engine.store.sqlite import SqliteStore
SqliteStore.close = lambda self: time.sleep(600)
from stepwire_engine.__main__ import main
main()
"""
"""An engine whose disk does not let go."""


def test_an_engine_that_hangs_is_ended_by_force_and_lost_nothing(stage: Stage) -> None:
    engine = stage.engine(command=["-c", HANGS, "engine"], drain_timeout=DRAIN_SECONDS)
    stage.host(engine, "stays")
    run = at_its_gate(stage, engine)
    engine.running.signal(signal.SIGTERM)
    code, seconds = seconds_to_end(engine.running)
    assert (code, seconds < DRAIN_SECONDS + FORCE_SECONDS + SLACK_SECONDS) == (1, True)
    engine.command = list(COMMAND)
    engine.start()
    stage.gates.open(run.run_id, "gated")
    assert_completed(stage, run)
