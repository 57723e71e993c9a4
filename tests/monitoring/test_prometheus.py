"""A real Prometheus scrapes an engine and two hosts under load: totals are those of the records (MISSION V1, V2)."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from stepwire.client import ClientSync, Run
from stepwire.errors import RunCancelled, RunFailed
from stepwire.protocol.failure import ErrorCode
from stepwire_engine.monitoring.alerts import ALERTS, RECORDINGS
from stepwire_engine.monitoring.boards import BOARDS
from tests.e2e.processes import Engine, Process, Stage, free_port, wait_for
from tests.monitoring.load_host import SERVICE_ENV
from tests.monitoring.prometheus import Prometheus
from tests.monitoring.tools import needed

SERVICES = ("shop", "billing")
MIXED = 12
FAILING = 3
WAITING = 2
GRAFANA = {"$__rate_interval": "2m", "$flow": ".*", "$service": ".*"}
pytestmark = pytest.mark.timeout(120)


@dataclass
class Loaded:
    """After the load: everything is quiet and scraped."""

    engine: Engine
    client: ClientSync
    prometheus: Prometheus
    records: list[Run]


@pytest.fixture(scope="module")
def loaded(shared_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    needed("prometheus")
    stage = shared_stage
    engine = stage.engine(live_idle=0.2)
    ports = [free_port() for _ in SERVICES]
    hosts = [_host(stage, engine, service, port) for service, port in zip(SERVICES, ports, strict=True)]
    targets = [f"127.0.0.1:{port}" for port in ports]
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), [f"127.0.0.1:{engine.http_port}"], targets)
    try:
        client = stage.client(engine)
        for host in hosts:
            host.says("connected to engine")
        _load(client, prometheus)
        records = [client.handle(run.run_id).get(steps=True) for run in client.list()]
        yield Loaded(engine, client, prometheus, records)
    finally:
        prometheus.close()
        for host in hosts:
            host.kill()


def _host(stage: Stage, engine: Engine, service: str, port: int, number: int = 0) -> Process:
    arguments = ["-m", "tests.monitoring.load_host", engine.address, str(port)]
    return Process(arguments, stage.directory / f"{service}-{port}-{number}.log", **{SERVICE_ENV: service})


def _load(client: ClientSync, prometheus: Prometheus) -> None:
    """Runs of every kind, in two portions with samples around them, so that rates have points to go by."""
    prometheus.scrape()
    for portion in range(2):
        runs = [client.start("mixed", 4 + n % 3) for n in range(MIXED // 2)]
        failing = [client.start("fails", n) for n in range(FAILING)]
        waiting = [client.start("waits") for _ in range(WAITING)]
        for run in runs:
            run.result(timeout=30)
        for run in failing:
            with pytest.raises(RunFailed):
                run.result(timeout=30)
        for run in waiting:
            wait_for(lambda run=run: run.get().reason == "event", "it to wait")
            run.cancel()
            with pytest.raises(RunCancelled):
                run.result(timeout=30)
        client.send("told", {"portion": portion}, id="only-once")
        prometheus.scrape()


def expected(records: list[Run]) -> dict[str, Counter[str]]:
    """What the metrics must add up to, from the records alone."""
    runs, steps, attempts, retries, groups = (Counter[str]() for _ in range(5))
    for record in records:
        runs[f"{record.flow} {record.state.lower()}"] += 1
        for step in record.steps:
            steps[f"{step.kind} {step.state.lower()}"] += 1
            for attempt in step.attempts:
                timed_out = attempt.failure is not None and attempt.failure.code is ErrorCode.TIMEOUT
                outcome = "ok" if attempt.failure is None else "timeout" if timed_out else "failed"
                attempts[f"{step.kind} {outcome}"] += 1
            retries[record.flow] += max(0, len(step.attempts) - 1)
        for group in record.groups:
            groups[f"{group.mode.lower()} {(group.verdict or 'none').lower()}"] += 1
    return {
        "stepwire_runs_finished_total": runs,
        "stepwire_steps_finished_total": steps,
        "stepwire_attempts_total": attempts,
        "stepwire_step_retries_total": retries,
        "stepwire_groups_finished_total": groups,
    }


LABELS: Mapping[str, tuple[str, ...]] = {
    "stepwire_runs_finished_total": ("flow", "state"),
    "stepwire_steps_finished_total": ("kind", "outcome"),
    "stepwire_attempts_total": ("kind", "outcome"),
    "stepwire_step_retries_total": ("flow",),
    "stepwire_groups_finished_total": ("mode", "verdict"),
}


def counted(prometheus: Prometheus, name: str) -> Counter[str]:
    found = Counter[str]()
    for labels, value in prometheus.series(name):
        found[" ".join(labels[label] for label in LABELS[name])] += int(value)
    return +found


@pytest.mark.parametrize("name", LABELS)
def test_totals_equal_the_records(loaded: Loaded, name: str) -> None:
    wanted = +expected(loaded.records)[name]
    assert wanted, "the load must have made some"
    assert counted(loaded.prometheus, name) == wanted


def test_started_runs_and_durations_equal_the_records(loaded: Loaded) -> None:
    for name in ("stepwire_runs_started_total", "stepwire_run_duration_seconds_count"):
        by_flow = {labels["flow"]: value for labels, value in loaded.prometheus.series(name)}
        assert Counter({k: int(v) for k, v in by_flow.items() if v}) == Counter(r.flow for r in loaded.records)
    seconds = sum((r.ended_at - r.created_at).total_seconds() for r in loaded.records if r.ended_at and r.created_at)
    assert loaded.prometheus.value("sum(stepwire_run_duration_seconds_sum)") == pytest.approx(seconds, abs=0.1)
    ended = sum(step.state.name in ("SUCCEEDED", "FAILED") for r in loaded.records for step in r.steps)
    assert loaded.prometheus.value("sum(stepwire_step_duration_seconds_count)") == ended


def test_hosts_tell_the_attempts_that_they_made(loaded: Loaded) -> None:
    """Of functions; the engine performs the other kinds itself. Losers of races are told by their hosts only."""
    made = sum(len(step.attempts) for r in loaded.records for step in r.steps if step.kind in ("run", "task"))
    told = loaded.prometheus.value('sum(stepwire_host_attempts_total{outcome!="cancelled"})')
    assert told == made
    both = {labels["service"]: value for labels, value in loaded.prometheus.series("stepwire_host_attempts_total > 0")}
    assert set(both) == set(SERVICES)
    assert loaded.prometheus.value("sum(stepwire_sessions_connected)") == len(SERVICES)
    assert loaded.prometheus.value("min(up)") == 1


def test_events_and_calls_are_counted(loaded: Loaded) -> None:
    value = loaded.prometheus.value
    assert value('stepwire_events_received_total{outcome="accepted"}') == 1
    assert value('stepwire_events_received_total{outcome="duplicate"}') == 1
    started = MIXED + 2 * FAILING + 2 * WAITING
    assert value('stepwire_rpcs_total{method="Start",code="ok"}') == started
    assert value('stepwire_rpcs_total{method="Cancel",code="ok"}') == 2 * WAITING


EXPRESSIONS = [
    *((board.uid, expr) for board in BOARDS for expr in board.expressions()),
    *((alert.name, alert.signal) for alert in ALERTS),
    *((recording.name, recording.name) for recording in RECORDINGS),
]


def test_no_expression_of_a_dashboard_or_an_alert_is_empty(loaded: Loaded) -> None:
    empty = []
    for owner, expr in EXPRESSIONS:
        for name, value in GRAFANA.items():
            expr = expr.replace(name, value)
        if not loaded.prometheus.series(expr):
            empty.append(f"{owner}: {expr}")
    assert not empty, "\n".join(empty)


def test_every_alert_is_loaded_and_none_fires(loaded: Loaded) -> None:
    groups = loaded.prometheus.get("rules")["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert {alert.name for alert in ALERTS} <= set(rules)
    bad = {name: rule["lastError"] for name, rule in rules.items() if rule["health"] != "ok"}
    assert not bad
    firing = {name for name, rule in rules.items() if rule.get("state") == "firing"}
    assert not firing


def test_exemplars_lead_to_runs_that_exist(loaded: Loaded) -> None:
    now = time.time()
    found = loaded.prometheus.get(
        "query_exemplars",
        query="stepwire_run_duration_seconds_bucket",
        start=str(now - 300),
        end=str(now),
    )
    runs = {exemplar["labels"]["run_id"] for series in found for exemplar in series["exemplars"]}
    assert runs and runs <= {record.run_id for record in loaded.records}


def test_no_label_is_an_id_or_a_text_of_users(loaded: Loaded) -> None:
    """Not of a run, a step, an error or an event (MISSION V1)."""
    runs = {record.run_id for record in loaded.records}
    allowed = {"flow": {record.flow for record in loaded.records}, "service": {*SERVICES, "stepwire"}}
    for name in loaded.prometheus.get("label/__name__/values"):
        if not name.startswith("stepwire_"):
            continue
        for labels, _ in loaded.prometheus.series(name):
            for label, values in allowed.items():
                assert labels.get(label, next(iter(values))) in values, (name, labels)
            for value in labels.values():
                assert not re.search(r"item-|never-sent|not yet|told", value) and value not in runs, (name, labels)


def test_workers_show_their_metrics_on_ports_of_their_own(shared_stage: Stage) -> None:
    """Two processes of one service with one configured port (several workers of a web server)."""
    engine = shared_stage.engine("workers")
    port = free_port()
    workers = [_host(shared_stage, engine, "shop", port, number) for number in range(2)]
    try:
        for worker in workers:
            worker.says("metrics of host shop are at")
        said = [re.search(r"metrics of host shop are at http://127.0.0.1:(\d+)/metrics", w.said) for w in workers]
        assert sorted(int(match[1]) - port for match in said if match) == [0, 1]
    finally:
        for worker in workers:
            worker.kill()
