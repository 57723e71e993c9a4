"""Two processes with one identity, and processes that fork: one session each, and no ping-pong."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from tests.e2e.processes import QUICK, Engine, Process, Stage, wait_for

SHARED = "0" * 32
SERVING = re.compile(r"^serving (\d+) (\w+)$", re.MULTILINE)
REFUSED = re.compile(r"^refused (\d+) (.*)$", re.MULTILINE)
CONNECTED = re.compile(r"host \w+ connected, instance (\w+), stream (\d+)")
FORKING = "tests/e2e/faults/forking_service.py"
RUNS = 12


@pytest.fixture(scope="module")
def engine(shared_stage: Stage) -> Engine:
    return shared_stage.engine(**QUICK)


def streams(engine: Engine, since: int = 0) -> Counter[str]:
    """How many streams each instance has had."""
    return Counter(instance for instance, _ in CONNECTED.findall(engine.running.said[since:]))


@pytest.mark.timeout(60)
def test_the_newer_of_two_processes_with_one_identity_wins_and_the_older_goes_on_as_another(
    shared_stage: Stage, engine: Engine, figure: Callable[[str], None]
) -> None:
    stage = shared_stage
    since = len(engine.running.said)
    client = stage.client(engine)
    older = stage.host(engine, "older", flows="faults.host_flows", E2E_INSTANCE=SHARED)
    held = client.start("one_gated")
    stage.gates.arrived(held.run_id, "gated")
    newer = stage.host(engine, "newer", flows="faults.host_flows", E2E_INSTANCE=SHARED)
    older.says("it goes on as instance")
    wait_for(lambda: older.said.count("connected to engine") == 2, "the older one to be back")

    runs = [client.start("one_gated") for _ in range(RUNS)]
    for run in [held, *runs]:
        stage.gates.open(run.run_id, "gated")
    assert [run.result(timeout=20) for run in [held, *runs]] == ["done"] * (RUNS + 1)
    hosts = {line.host for line in stage.ledger.refresh() if line.event == "after"}
    assert hosts == {"older", "newer"}, "both serve"
    seen = streams(engine, since)
    assert sorted(seen.values()) == [1, 2] and seen[SHARED] == 2, "replaced once, and never again"
    assert newer.said.count("connected to engine") == 1
    figure(f"one identity, two processes: {seen.total()} streams in all, 1 replaced")
    for process in (older, newer):
        assert process.terminate() == 0


def launched(stage: Stage, engine: Engine, mode: str, says: re.Pattern[str], times: int) -> Process:
    process = Process([FORKING, mode, engine.address], stage._log(f"forking-{mode}"))
    stage._closing.append(process.kill)
    wait_for(lambda: len(says.findall(process.said)) == times or not process.running, "the service to fork", 20)
    assert process.running, process.said
    return process


@pytest.mark.timeout(60)
def test_each_process_of_a_service_that_forks_has_a_session_of_its_own(shared_stage: Stage, engine: Engine) -> None:
    since = len(engine.running.said)
    process = launched(shared_stage, engine, "preload", SERVING, 2)
    serving = dict(SERVING.findall(process.said))
    assert len(serving) == len(set(serving.values())) == 2, "two processes, two instances"
    wait_for(lambda: streams(engine, since).keys() == set(serving.values()), "both sessions")
    client = shared_stage.client(engine)
    # A body goes to the host with fewer, and its step to the host of the body; so a few runs come to both.
    wait_for(
        lambda: {str(run.result(timeout=10)) for run in [client.start("who") for _ in range(4)]} == serving.keys(),
        "runs on both processes",
    )
    assert streams(engine, since) == dict.fromkeys(serving.values(), 1), "no stream was replaced or began anew"
    process.signal(signal.SIGTERM)
    assert process.wait() == 0, process.said
    said = engine.running.said[since:]
    assert all(f"disconnected, instance {instance}" in said for instance in serving.values())


@pytest.mark.timeout(60)
def test_a_child_of_a_running_host_is_refused_and_does_the_session_no_harm(shared_stage: Stage, engine: Engine) -> None:
    since = len(engine.running.said)
    process = launched(shared_stage, engine, "late", REFUSED, 1)
    ((pid, instance),) = SERVING.findall(process.said)
    ((child, why),) = REFUSED.findall(process.said)
    assert child != pid and "was started before this process was forked" in why
    client = shared_stage.client(engine)
    runs = [client.start("who") for _ in range(RUNS)]
    assert {str(run.result(timeout=10)) for run in runs} == {pid}
    process.signal(signal.SIGTERM)
    assert process.wait() == 0, process.said
    assert streams(engine, since).keys() == {instance}, "one session, of the parent"
