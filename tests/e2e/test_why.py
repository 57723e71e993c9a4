"""`stepwire runs why` against a real engine: what it says changes with what happens to the run."""

from __future__ import annotations

import json

from stepwire.client import WaitReason
from tests.e2e.processes import Stage, wait_for

MEMBER = "parallel/[0]/member"


def test_it_says_who_executes_then_that_nobody_serves_and_then_how_it_ended(stage: Stage) -> None:
    engine = stage.engine(reconnect_grace=0.5)
    one = stage.host(engine, "one", slots=1)
    client = stage.client(engine)
    run = client.start("spread", 1)
    stage.gates.arrived(run.run_id, MEMBER)
    wait_for(lambda: client.get(run.run_id).reason is WaitReason.LEASE_OF_HOST, "the lease")
    why = stage.stepwire(engine, "runs", "why", run.run_id)
    assert f"{MEMBER} executes attempt 1 on host one" in why or f"{MEMBER} (task" in why, why
    one.kill()
    wait_for(lambda: client.explain(run.run_id).run.reason is WaitReason.NO_HOST, "the loss of the only host")
    found = json.loads(stage.stepwire(engine, "runs", "why", run.run_id, "-o", "json"))
    assert (found["run"]["reason"], found["services"], found["body"]) == ("no_host", [], None)
    assert "next: start a host that serves " in stage.stepwire(engine, "runs", "why", run.run_id)
    stage.host(engine, "two", slots=1)
    stage.gates.open(run.run_id, MEMBER)
    assert run.result(timeout=15) == [0]
    ended = stage.stepwire(engine, "runs", "why", run.run_id)
    assert ended.startswith(f"run {run.run_id} of flow spread has ended: SUCCEEDED"), ended
