"""Engine and host on uvloop and on asyncio's own loop: threads, processes, timers, signals; `docs/guide/hosts.md`."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.processes import QUICK, Engine, Process, Stage, wait_for


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


def pair(stage: Stage, loop: str) -> tuple[Engine, Process]:
    """Both on the same kind of loop."""
    engine = stage.engine(**QUICK, event_loop=loop)
    assert engine.running.said.splitlines()[-1].endswith(f"loop {loop}") or f"  loop {loop}" in engine.running.said
    return engine, stage.host(engine, "only", flows="loop_flows", STEPWIRE_EVENT_LOOP=loop)


def test_threads_processes_and_timers(stage: Stage, loop: str) -> None:
    engine, _ = pair(stage, loop)
    client = stage.client(engine)
    run, sync = client.start("everything"), client.start("everything_sync")
    assert run.result(timeout=15) == [loop, True, "out 0", "timed out"]
    assert sync.result(timeout=15) == sum(range(20))
    build_info = [line for line in engine.http("/metrics")[1].splitlines() if line.startswith("stepwire_build_info{")]
    assert f'loop="{loop}"' in build_info[0]


def test_the_first_signal_drains_and_nothing_is_lost(stage: Stage, loop: str) -> None:
    engine, host = pair(stage, loop)
    run = stage.client(engine).start("waits_at_its_gate")
    stage.gates.arrived(run.run_id, "gated")
    host.signal(signal.SIGTERM)
    stage.draining(host)
    stage.gates.open(run.run_id, "gated")
    assert host.wait() == 0
    engine.running.signal(signal.SIGTERM)
    assert engine.running.wait() == 0
    engine.start()
    stage.host(engine, "next", flows="loop_flows", STEPWIRE_EVENT_LOOP=loop)
    assert run.result(timeout=15) == "passed"
    assert stage.ledger.count("before", run.run_id) == {"gated": 1}


def test_the_second_signal_ends_both_at_once(stage: Stage, loop: str) -> None:
    engine, host = pair(stage, loop)
    run = stage.client(engine).start("waits_at_its_gate")
    stage.gates.arrived(run.run_id, "gated")
    for process, code in ((host, 130), (engine.running, 0)):
        process.signal(signal.SIGINT)
        wait_for(lambda: "once more ends" in process.said, "it to hear the first signal")  # noqa: B023
        process.signal(signal.SIGTERM)
        assert process.wait() == code


def test_an_engine_that_is_killed_is_taken_over(stage: Stage, loop: str) -> None:
    """The next one may run on another loop: what is durable does not know."""
    engine, _ = pair(stage, loop)
    run = stage.client(engine).start("waits_at_its_gate")
    stage.gates.arrived(run.run_id, "gated")
    engine.kill()
    engine.settings["event_loop"] = "asyncio"
    engine.start()
    stage.gates.open(run.run_id, "gated")
    assert run.result(timeout=15) == "passed"
    assert stage.ledger.count("before", run.run_id) == {"gated": 1}
