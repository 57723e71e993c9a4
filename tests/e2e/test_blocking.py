"""A host that is blocked is not a host that is lost (MISSION I5): its session lives in threads of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.ledger import Ledger
from tests.e2e.processes import Engine, Stage, wait_for

IMPATIENT: dict[str, Any] = {"heartbeat_interval": 0.25, "silence_timeout": 1.5, "reconnect_grace": 0.3}
"""A host that does not report for 1.8 s is lost."""


@pytest.fixture
def engine(stage: Stage) -> Engine:
    return stage.engine(**IMPATIENT)


def assert_stayed(engine: Engine, ledger: Ledger, run_id: str, path: str) -> None:
    """One stream, no attempt lost, the step ran once."""
    assert ledger.count("before", run_id) == {path: 1}
    assert engine.running.said.count("host only connected") == 1
    for cause in ("silence", "stream_end"):
        assert engine.metric(f'stepwire_attempts_lost_total{{cause="{cause}"}}') == 0
    assert engine.metric("stepwire_sessions_resumed_total") == 0


def frames(engine: Engine) -> float:
    return engine.metric('stepwire_frames_total{direction="in"}')


def test_a_plain_step_blocks_for_three_seconds(stage: Stage, engine: Engine) -> None:
    stage.host(engine, "only")
    run = stage.client(engine).start("blocking", 3.0)
    wait_for(lambda: stage.ledger.of(run.run_id, "before"), "the step to begin")
    before = frames(engine)
    assert run.result(timeout=15) == "blocked"
    # Reports went on: about 12 were due. The result and the last plan are two frames more at most.
    assert frames(engine) - before >= 10
    assert_stayed(engine, stage.ledger, run.run_id, "block")


def test_an_async_step_blocks_the_loop_for_six_seconds(stage: Stage, engine: Engine) -> None:
    stage.host(engine, "only")
    client = stage.client(engine)
    gated = client.start("one_gated_sync")
    stage.gates.arrived(gated.run_id, "gated")
    blocking = client.start("blocking_loop", 6.0)
    wait_for(lambda: stage.ledger.of(blocking.run_id, "before"), "the loop to be blocked")
    before = frames(engine)

    stage.gates.open(gated.run_id, "gated")
    # The result of the plain step goes from its thread to the engine, which commits and acks it.
    stage.acked(gated.run_id, "gated")
    assert client.get(gated.run_id, steps=True).steps[0].state == "SUCCEEDED"
    assert stage.ledger.of(blocking.run_id, "after") == [], "the loop was still blocked"

    assert blocking.result(timeout=15) == "blocked"
    assert gated.result(timeout=15) == "done"
    assert frames(engine) - before >= 20
    assert_stayed(engine, stage.ledger, blocking.run_id, "block")
    assert stage.ledger.count("before", gated.run_id) == {"gated": 1}
