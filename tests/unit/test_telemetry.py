"""The metric tables are complete, bounded and exported as they are (MISSION V1)."""

from __future__ import annotations

import re
from typing import Any, get_type_hints

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from stepwire import metrics
from stepwire._runtime import telemetry as host
from stepwire_engine import telemetry as engine
from stepwire_engine.core.counters import Counters, EndedRun
from tests.architecture.source import ROOT


def exposed(registry: CollectorRegistry, accept: str = "") -> str:
    return choose_encoder(accept)[0](registry).decode()


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """Every series of the text format, as `name{labels}`."""
    found = {}
    for line in exposed(registry).splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def new_engine() -> tuple[engine.Telemetry, CollectorRegistry]:
    telemetry = engine.Telemetry(version="1.2", storage="sqlite")
    return telemetry, engine.metrics_registry(telemetry)


def new_host() -> tuple[host.HostTelemetry, CollectorRegistry]:
    telemetry = host.HostTelemetry("shop", "1.2")
    registry = CollectorRegistry()
    host.export(telemetry, registry)
    return telemetry, registry


@pytest.mark.parametrize(
    ("module", "slots"), [(engine, engine.Telemetry), (host, host.HostTelemetry)], ids=["engine", "host"]
)
def test_every_slot_has_a_metric_and_every_metric_a_slot(module: Any, slots: type) -> None:
    assert sorted(m.slot for m in module.METRICS) == sorted(get_type_hints(slots))


@pytest.mark.parametrize(("module", "package"), [(engine, "engine"), (host, "python_sdk")], ids=["engine", "host"])
def test_every_metric_is_counted_somewhere(module: Any, package: str) -> None:
    texts = [(file.name, file.read_text("utf-8")) for file in (ROOT / package).rglob("*.py")]
    code = "\n".join(text if name != "telemetry.py" else text.replace("self.", "telemetry.") for name, text in texts)
    counts = r"\+=|=(?!=)|\.observe|\.update|\.append|\.exemplify"
    for metric in module.METRICS:
        slot = rf"(?:telemetry|counters)\.{metric.slot}\b"
        counted = rf"{slot}(?:\[[^\n]*\])?\s*(?:{counts})|= {slot}\[|{slot}[,)]"
        assert re.search(counted, code), f"nothing counts {metric.name}"


@pytest.mark.parametrize("module", [engine, host], ids=["engine", "host"])
def test_names_follow_the_conventions(module: Any) -> None:
    names = [m.name for m in module.METRICS]
    assert len(set(names)) == len(names)
    for metric in module.METRICS:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", metric.name)
        assert metric.help.endswith(".")
        assert (metric.kind is module.Kind.COUNTER) == metric.name.endswith("_total")
        assert bool(metric.buckets) == (metric.kind is module.Kind.HISTOGRAM)
        assert list(metric.buckets) == sorted(metric.buckets)
        assert {"run", "run_id", "step", "path", "error"}.isdisjoint(metric.labels)


@pytest.mark.parametrize("new", [new_engine, new_host], ids=["engine", "host"])
def test_both_formats_can_be_parsed(new: Any) -> None:
    _, registry = new()
    assert list(parse_text(exposed(registry)))
    opened = exposed(registry, "application/openmetrics-text; version=1.0.0")
    assert list(parse_openmetrics(opened))  # type: ignore[no-untyped-call]


def test_zero_series_are_present_at_start() -> None:
    _, registry = new_engine()
    found = samples(registry)
    for name in (
        'stepwire_steps_finished_total{kind="run",outcome="failed"}',
        'stepwire_groups_finished_total{mode="race",verdict="failed"}',
        'stepwire_attempts_lost_total{cause="silence"}',
        'stepwire_waiting_runs{reason="no_host"}',
        'stepwire_runs{state="paused"}',
        "stepwire_advances_total",
        'stepwire_commit_seconds_bucket{le="+Inf"}',
        'stepwire_commit_seconds_bucket{le="0.0005"}',
        "stepwire_commit_seconds_sum",
    ):
        assert found[name] == 0
    assert found['stepwire_build_info{loop="asyncio",storage="sqlite",version="1.2"}'] == 1
    assert "process_start_time_seconds" in found
    assert samples(new_host()[1])['stepwire_host_attempts_total{kind="task",outcome="timeout",service="shop"}'] == 0


def test_a_new_flow_and_service_get_all_their_zero_series() -> None:
    telemetry, registry = new_engine()
    assert telemetry.flow("order") == "order"
    assert telemetry.service("web") == "web"
    found = samples(registry)
    for name in (
        'stepwire_runs_started_total{flow="order"}',
        'stepwire_runs_finished_total{flow="order",state="cancelled"}',
        'stepwire_run_duration_seconds_count{flow="order"}',
        'stepwire_step_retries_total{flow="order"}',
        'stepwire_sessions_connected{service="web"}',
        'stepwire_session_slots{service="web",state="free"}',
    ):
        assert found[name] == 0


def test_flows_beyond_the_cap_are_counted_together() -> None:
    telemetry, registry = new_engine()
    for i in range(engine.FLOWS_MAX + 50):
        telemetry.runs_started[telemetry.flow(f"flow-{i}")] += 1
    assert telemetry.flow("flow-0") == "flow-0"
    found = samples(registry)
    assert found['stepwire_runs_started_total{flow="__other__"}'] == 50
    assert found['stepwire_runs_started_total{flow="flow-199"}'] == 1
    assert found['stepwire_capped_labels{label="flow"}'] == 1
    assert found['stepwire_capped_labels{label="service"}'] == 0
    assert len(telemetry.runs_started) == engine.FLOWS_MAX + 1


def test_counting_and_unknown_labels() -> None:
    telemetry, registry = new_engine()
    telemetry.frames["in"] += 3
    telemetry.advances += 2
    telemetry.steps_finished["task", "succeeded"] += 512
    with pytest.raises(KeyError):
        telemetry.frames["sideways"] += 1
    with pytest.raises(KeyError):
        telemetry.runs_started["never admitted"] += 1
    found = samples(registry)
    assert found['stepwire_frames_total{direction="in"}'] == 3
    assert found["stepwire_advances_total"] == 2
    assert found['stepwire_steps_finished_total{kind="task",outcome="succeeded"}'] == 512


def test_histograms_are_cumulative_with_inclusive_bounds() -> None:
    telemetry, registry = new_engine()
    for units in (1, 2, 3, 5000):
        telemetry.commit_units.observe(units)
    found = samples(registry)
    assert [found[f'stepwire_commit_units_bucket{{le="{le}"}}'] for le in ("1.0", "2.0", "4.0", "1024.0", "+Inf")] == [
        1, 2, 3, 3, 4,
    ]  # fmt: skip
    assert found["stepwire_commit_units_sum"] == 5006
    assert found["stepwire_commit_units_count"] == 4


def test_gauges_are_refreshed_by_a_scrape_and_not_by_registering() -> None:
    telemetry = engine.Telemetry(version="1", storage="memory")

    def refresh() -> None:
        telemetry.runs["running"] += 1

    telemetry.refresh.append(refresh)
    registry = engine.metrics_registry(telemetry)
    assert telemetry.runs["running"] == 0
    assert samples(registry)['stepwire_runs{state="running"}'] == 1
    assert samples(registry)['stepwire_runs{state="running"}'] == 2


def test_what_the_core_counted_is_taken_over_once() -> None:
    telemetry, registry = new_engine()
    counters = Counters()
    counters.runs_started["order"] += 5
    counters.runs_finished["order", "failed"] += 1
    counters.runs_ended.append(EndedRun("order", 0.02, 1_700_000_000_000, {"run_id": "r1"}))
    counters.step_duration_seconds["run"] += [0.001, 0.3]
    counters.timer_lags.append(0.02)
    counters.retries["order"] += 2
    counters.steps_finished["run", "succeeded"] += 7
    counters.attempts_lost["silence"] += 1
    counters.advances = 4
    for _ in range(2):
        telemetry.absorb(counters)
    assert counters.runs_ended == [] and counters.timer_lags == [] and not counters.step_duration_seconds["run"]
    found = samples(registry)
    assert found['stepwire_runs_started_total{flow="order"}'] == 5
    assert found['stepwire_runs_finished_total{flow="order",state="failed"}'] == 1
    assert found['stepwire_run_duration_seconds_count{flow="order"}'] == 1
    assert found['stepwire_step_duration_seconds_count{kind="run"}'] == 2
    assert found["stepwire_timer_lag_seconds_count"] == 1
    assert found['stepwire_step_retries_total{flow="order"}'] == 2
    assert found['stepwire_steps_finished_total{kind="run",outcome="succeeded"}'] == 7
    assert found['stepwire_attempts_lost_total{cause="silence"}'] == 1
    assert found["stepwire_advances_total"] == 4


def test_every_count_of_the_core_is_exported() -> None:
    renamed = {
        "retries": "step_retries",
        "runs_ended": "run_duration_seconds",
        "timer_lags": "timer_lag_seconds",
        "dormant": "runs",
    }
    slots = {m.slot for m in engine.METRICS}
    assert {renamed.get(name, name) for name in vars(Counters())} <= slots


def test_the_host_counts() -> None:
    telemetry, registry = new_host()
    telemetry.attempts["run", "ok"] += 2
    telemetry.attempt_seconds["run"].observe(0.02)
    telemetry.body_entries += 1
    telemetry.refresh.append(lambda: telemetry.slots.update(busy=3, free=5))
    found = samples(registry)
    assert found['stepwire_host_attempts_total{kind="run",outcome="ok",service="shop"}'] == 2
    assert found['stepwire_host_attempt_seconds_bucket{kind="run",le="0.025",service="shop"}'] == 1
    assert found['stepwire_host_body_entries_total{service="shop"}'] == 1
    assert found['stepwire_host_slots{service="shop",state="free"}'] == 5
    with pytest.raises(KeyError):
        telemetry.attempts["run", "great"] += 1


def test_hosts_of_one_process_share_a_registry() -> None:
    registry = CollectorRegistry()
    for service in ("shop", "billing"):
        telemetry = host.HostTelemetry(service, "1.2")
        host.export(telemetry, registry)
        telemetry.body_entries += len(service)
    found = samples(registry)
    assert found['stepwire_host_body_entries_total{service="shop"}'] == 4
    assert found['stepwire_host_body_entries_total{service="billing"}'] == 7


def test_exemplars_are_in_openmetrics_only() -> None:
    telemetry, registry = new_engine()
    histogram = telemetry.run_duration_seconds[telemetry.flow("order")]
    histogram.observe(0.02)
    histogram.exemplify(0.02, {"run_id": "r1"}, 1_700_000_000.0)
    assert "r1" not in exposed(registry)
    opened = exposed(registry, "application/openmetrics-text; version=1.0.0")
    families = parse_openmetrics(opened)  # type: ignore[no-untyped-call]
    kept = [s for family in families for s in family.samples if s.exemplar is not None]
    (sample,) = kept
    assert sample.labels == {"flow": "order", "le": "0.025"}
    assert (sample.exemplar.labels, sample.exemplar.value) == ({"run_id": "r1"}, 0.02)


def test_observing_many_is_observing_each() -> None:
    one, many = metrics.Histogram((0.1, 1)), metrics.Histogram((0.1, 1))
    values = [0.0, 0.1, 0.5, 1.0, 7.0]
    for value in values:
        one.observe(value)
    many.observe_all(values)
    assert (one.counts, one.total) == (many.counts, many.total)
