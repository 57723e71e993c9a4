"""Registered steps go to all hosts, as far as they have slots (MISSION I17)."""

from __future__ import annotations

from collections import Counter

from tests.e2e.ledger import most_at_once
from tests.e2e.processes import Stage, wait_for


def member(index: int) -> str:
    return f"parallel/[{index}]/member"


def at_gates(stage: Stage, run_id: str, number: int) -> list[str]:
    """Wait until exactly so many members wait at their gates; their paths."""
    wait_for(lambda: len(stage.gates.waiting(run_id)) == number, f"{number} members at their gates")
    return stage.gates.waiting(run_id)


def test_four_members_on_two_hosts_with_two_slots(stage: Stage) -> None:
    engine = stage.engine()
    for name in ("one", "two"):
        stage.host(engine, name, slots=2)
    run = stage.client(engine).start("spread", 4)
    paths = [member(index) for index in range(4)]
    stage.gates.arrived(run.run_id, *paths)
    assert stage.gates.waiting(run.run_id) == paths, "all four run at once"
    assert Counter(line.host for line in stage.ledger.of(run.run_id, "before")) == {"one": 2, "two": 2}
    stage.gates.open(run.run_id, *paths)
    assert run.result(timeout=15) == [0, 1, 2, 3]


def test_one_slot_is_never_exceeded(stage: Stage) -> None:
    engine = stage.engine()
    for name in ("one", "two"):
        stage.host(engine, name, slots=1)
    run = stage.client(engine).start("spread", 8)
    for done in range(8):
        at_once = min(2, 8 - done)
        first, *_ = at_gates(stage, run.run_id, at_once)
        stage.gates.open(run.run_id, first)
    assert run.result(timeout=15) == list(range(8))
    most = most_at_once(stage.ledger.refresh())
    assert sorted(most.values()) == [1, 1], "both hosts worked, one step at a time"
    assert stage.ledger.count("before", run.run_id) == {member(index): 1 for index in range(8)}


def test_a_waiting_run_has_a_reason(stage: Stage) -> None:
    """`waiting_runs` counts open runs by their first reason (DESIGN 7)."""
    engine = stage.engine(reconnect_grace=0.5)
    one = stage.host(engine, "one", slots=1)
    run = stage.client(engine).start("spread", 1)
    stage.gates.arrived(run.run_id, member(0))
    # The host started its only step itself, perhaps before its plan reached the engine.
    wait_for(lambda: engine.metric('stepwire_waiting_runs{reason="lease_of_host"}') == 1, "the lease")
    one.kill()
    wait_for(lambda: engine.metric('stepwire_waiting_runs{reason="no_host"}') == 1, "the loss of the only host")
    stage.host(engine, "two", slots=1)
    stage.gates.open(run.run_id, member(0))
    assert run.result(timeout=15) == [0]
    assert engine.metric('stepwire_waiting_runs{reason="lease_of_host"}') == 0
