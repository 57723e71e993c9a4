"""A busy host has its next registered steps already, and gives back what it cannot begin soon (docs/adr/0025)."""

from __future__ import annotations

import signal

from tests.e2e.ledger import most_at_once
from tests.e2e.processes import Engine, Stage, wait_for
from tests.e2e.test_spread import at_gates, member

HURRIES = """
from stepwire_engine.core import sessions
sessions._PACE_MAX = 0.0  # Whatever a step took counts as short: nothing depends on how fast this machine is.
from stepwire_engine import cli
cli.main()
"""


def hurried(stage: Stage) -> Engine:
    return stage.engine(command=["-c", HURRIES, "engine"])


def test_the_next_step_begins_while_the_engine_says_nothing(stage: Stage) -> None:
    engine = hurried(stage)
    stage.host(engine, "one", slots=1, flows="patient_flows")
    client = stage.client(engine)
    run = client.start("spread", 2)
    (first,) = at_gates(stage, run.run_id, 1)
    (second,) = {member(0), member(1)} - {first}
    wait_for(
        lambda: all([step.holder for step in client.explain(run.run_id).open_steps]), "both to be given to the host"
    )
    assert engine.metric('stepwire_session_slots{service="one",state="busy"}') == 1
    assert stage.gates.waiting(run.run_id) == [first], "it has one slot"
    engine.running.signal(signal.SIGSTOP)
    stage.gates.open(run.run_id, first)
    stage.gates.arrived(run.run_id, second)
    engine.running.signal(signal.SIGCONT)
    stage.gates.open(run.run_id, second)
    assert run.result(timeout=15) == [0, 1]
    assert list(most_at_once(stage.ledger.refresh()).values()) == [1]


def test_a_step_is_not_stuck_behind_a_long_one_while_another_host_is_free(stage: Stage) -> None:
    engine = hurried(stage)
    stage.host(engine, "one", slots=1)
    run = stage.client(engine).start("spread", 2)
    (first,) = at_gates(stage, run.run_id, 1)
    (second,) = {member(0), member(1)} - {first}
    stage.host(engine, "two", slots=1)
    stage.gates.arrived(run.run_id, second)
    assert stage.gates.waiting(run.run_id) == [member(0), member(1)], "the first one has not ended"
    assert engine.metric("stepwire_rejects_total") >= 1, "and the second one was given to its host"
    stage.gates.open(run.run_id, first, second)
    assert run.result(timeout=15) == [0, 1]
    assert list(most_at_once(stage.ledger.refresh()).values()) == [1, 1]
    assert stage.ledger.count("before", run.run_id) == {member(0): 1, member(1): 1}
