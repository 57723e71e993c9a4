"""Log lines end to end: said once although host and engine are killed, and readable per step (MISSION V1)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import stepwire
from stepwire.errors import RunNotFound
from tests.e2e.processes import Engine, Stage, wait_for

LINES = ".lines"
"""Ending of the file that `log_flows` writes beside the ledger."""
FLOWS = ("order", "order_sync")
OF_THE_FLOW = ["begins", "charged", "ends", "to ship", "x begins", "x ends", "y begins", "y ends"]


def written(stage: Stage, run_id: str) -> list[tuple[str, str, str, str]]:
    """(step, attempt, host, message) of every line that hosts wrote of a run, in order."""
    lines = Path(str(stage.ledger.path) + LINES).read_text().splitlines()
    found = [line.split("|") for line in lines]
    return [(step, attempt, host, message) for run, step, attempt, host, message in found if run == run_id]


def kept(client: stepwire.ClientSync, run_id: str, **wanted: str) -> list[str]:
    return [line.message for line in client.logs(run_id, **wanted)]


def until_kept(client: stepwire.ClientSync, run_ids: list[str], message: str, count: int = 1) -> None:
    """Wait until the engine has this line of every run."""
    wait_for(lambda: all(kept(client, run).count(message) >= count for run in run_ids), f"{message!r} in the engine")


@pytest.mark.timeout(60)
def test_lines_are_said_once_although_host_and_engine_are_killed(stage: Stage) -> None:
    engine = stage.engine(reconnect_grace="0.5s", adoption_grace="1s")
    client = stage.client(engine)
    with pytest.raises(RunNotFound):
        kept(client, "nobody")
    first = stage.host(engine, "one", flows="log_flows")
    runs = [client.start(flow).run_id for flow in FLOWS]
    for run_id in runs:
        stage.gates.arrived(run_id, "ship")
    until_kept(client, runs, "ships")

    engine.kill()
    engine.start()
    first.kill()
    stage.host(engine, "two", flows="log_flows")
    for run_id in runs:
        stage.gates.arrived(run_id, "ship", times=2)
        stage.gates.open(run_id, "ship")
    until_kept(client, runs, "ends")

    for run_id in runs:
        lines = written(stage, run_id)
        own = [message for _, attempt, _, message in lines if attempt == "0"]
        assert sorted(own) == OF_THE_FLOW
        assert [(attempt, host, message) for step, attempt, host, message in lines if step == "ship"] == [
            ("1", "one", "ships"),
            ("1", "two", "ships"),
        ], "what is executed again is said again"
        assert sorted(step for step, _, _, message in lines if message == "charges") == [
            "charge",
            "parallel/[0]/charge",
            "parallel/[1]/charge",
        ]
    _read_back(stage, engine, client, runs[0])


def _read_back(stage: Stage, engine: Engine, client: stepwire.ClientSync, run_id: str) -> None:
    """What was written is what is kept, and it is found by step and level."""
    lines = client.logs(run_id)
    found = [(line.path, str(line.attempt), line.host, line.message) for line in lines]
    assert sorted(found) == sorted(written(stage, run_id)) and lines.dropped == 0
    assert [line.path for line in client.logs(run_id, level="WARNING")] == [""]
    assert kept(client, run_id, path="parallel/[0]") == ["x begins", "x ends"]
    said = stage.stepwire(engine, "runs", "logs", run_id, "--step", "ship", "-o", "json")
    document = json.loads(said)
    assert [(line["host"], line["message"], line["attempt"]) for line in document["lines"]] == [
        ("one", "ships", 1),
        ("two", "ships", 1),
    ]
    followed = stage.stepwire(engine, "runs", "logs", run_id, "--follow", "--tail", "1")
    assert "warning  (flow)  shop.order: ends" in followed.splitlines()[0]
