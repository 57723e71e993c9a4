"""One trace for a run on two hosts, one of which is killed (MISSION V5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from tests.e2e.processes import QUICK, Stage
from tests.sdk.spans import recorded, span_id, trace_id

Spans = list[dict[str, Any]]


def written(file: Path) -> Spans:
    return [json.loads(line) for line in file.read_text().splitlines()]


def named(spans: Spans, name: str) -> Spans:
    return [span for span in spans if span["name"] == name]


@pytest.mark.live_bodies
@pytest.mark.timeout(60)
def test_a_run_on_two_hosts_is_one_trace_whichever_is_killed(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "spans"
    engine = stage.engine(**QUICK)
    options: dict[str, Any] = {"flows": "traced_flows", "E2E_SPANS": str(file)}
    hosts = dict(zip(("one", "two"), stage.hosts(engine, "one", "two", **options), strict=True))

    with recorded() as here, trace.get_tracer("test").start_as_current_span("request"):
        run = stage.client(engine).start("traced")
    stage.gates.arrived(run.run_id, "work/[0]/held")
    stage.acked(run.run_id, "first", *[f"work/[{i}]/task" for i in range(1, 5)])
    (entered,) = stage.ledger.of(run.run_id, "body")
    hosts[entered.host].kill()
    before = written(file)
    stage.gates.arrived(run.run_id, "work/[0]/held", times=2)
    stage.gates.open(run.run_id, "work/[0]/held")
    assert run.result(timeout=30) == 1 + 2 + 6 + 10
    for host in hosts.values():
        host.terminate() if host.running else None

    spans = written(file)
    request = here.one("request")
    assert {span["trace"] for span in spans} == {trace_id(request)}
    assert {span["stepwire.host"] for span in spans} == {"one", "two"}
    (life,) = named(spans, "flow traced")
    assert life["parent"] == span_id(request) and life["stepwire.replayed"], "the first life ended without a word"
    assert life["links"], "it is linked to a step of the first"
    assert named(before, "step first") == named(spans, "step first")
    (first,) = named(spans, "step first")
    assert [span["parent"] for span in named(spans, "attempt first")] == [first["span"]]
    held, again = {span["parent"] for span in named(spans, "attempt held")}, named(spans, "step held")
    assert len(held) == 1 and again == [], "its span was cut off, but whoever tries again knows it"
    (child,) = named(spans, "step child")
    assert [span["parent"] for span in named(spans, "flow double")] == [child["span"]]
