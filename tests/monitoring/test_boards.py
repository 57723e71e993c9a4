"""Dashboards and alerts name metrics that exist, and their files are those of this version (MISSION V2)."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder  # type: ignore[import-untyped]
from grafana_foundation_sdk.models.dashboard import Dashboard  # type: ignore[import-untyped]

from stepwire._runtime import telemetry as host
from stepwire.metrics import Definition, Kind
from stepwire_engine import telemetry as engine
from stepwire_engine.monitoring.alerts import ALERTS, RECORDINGS
from stepwire_engine.monitoring.boards import BOARDS
from stepwire_engine.monitoring.export import files
from stepwire_engine.monitoring.panels import COLUMNS, Board

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
TABLES = ((engine.PREFIX, engine.METRICS, ()), (host.PREFIX, host.METRICS, ("service",)))


def _series() -> dict[str, set[str]]:
    """Name of every series -> its labels."""
    found: dict[str, set[str]] = {}
    for prefix, table, common in TABLES:
        for metric in table:
            for suffix, more in _suffixes(metric):
                found[prefix + metric.name + suffix] = {*common, *metric.labels, *more}
    return found


def _suffixes(metric: Definition) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if metric.kind is Kind.HISTOGRAM:
        return ("_bucket", ("le",)), ("_sum", ()), ("_count", ())
    return (("", ()),)


SERIES = _series()
EXPRESSIONS = [
    *((board.uid, expr) for board in BOARDS for expr in board.expressions()),
    *((alert.name, alert.expr) for alert in ALERTS),
    *((recording.name, recording.expr) for recording in RECORDINGS),
]


@pytest.mark.parametrize(("owner", "expr"), EXPRESSIONS)
def test_expressions_name_metrics_and_labels_that_exist(owner: str, expr: str) -> None:
    recorded = {recording.name for recording in RECORDINGS}
    for name, selector in re.findall(r"\b(stepwire_\w+)(\{[^}]*\})?", expr):
        assert name in SERIES, f"{owner}: there is no series {name}"
        asked = set(re.findall(r"(\w+)=~?\"", selector))
        assert asked <= SERIES[name], f"{owner}: {name} has no label {asked - SERIES[name]}"
    labels = set[str]().union(*(SERIES[name] for name, _ in re.findall(r"\b(stepwire_\w+)()", expr)))
    for grouped in re.findall(r"\bby \(([^)]*)\)", expr):
        assert {label.strip() for label in grouped.split(",")} <= labels, f"{owner}: groups by a label nobody has"
    for name in re.findall(r"\bstepwire:[\w:]+", expr):
        assert name in recorded, f"{owner}: nothing records {name}"


def test_labels_of_the_tables_stand_in_the_tables() -> None:
    assert SERIES["stepwire_runs_finished_total"] == {"flow", "state"}
    assert SERIES["stepwire_host_loop_lag_seconds_bucket"] == {"service", "le"}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_grafana_reads_every_field_of_a_dashboard(board: Board) -> None:
    """Grafana's own models know all that is written, and lose none of it; the panels' own options are free."""
    written = board.json()
    again = json.loads(json.dumps(Dashboard.from_json(written), cls=JSONEncoder))
    lost = list(_lost(written, again, ""))
    assert not lost, f"not in Grafana's schema: {lost}"
    assert written["schemaVersion"] == 39


def _lost(written: Any, again: Any, place: str) -> Any:
    if isinstance(written, dict):
        for name, value in written.items():
            if not isinstance(again, dict) or name not in again:
                yield f"{place}.{name}"
            else:
                yield from _lost(value, again[name], f"{place}.{name}")
    elif isinstance(written, list):
        for n, value in enumerate(written):
            yield from _lost(value, again[n], f"{place}[{n}]")
    elif written != again:
        yield place


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_panels_have_a_place_a_help_and_a_name_of_their_own(board: Board) -> None:
    panels = board.json()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= COLUMNS
        if panel["type"] != "row":
            assert panel["description"].endswith(".") and panel["targets"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_boards_have_stable_names_of_their_own() -> None:
    assert [board.uid for board in BOARDS] == [
        "stepwire-overview",
        "stepwire-flow",
        "stepwire-hosts",
        "stepwire-engine",
    ]


def test_every_metric_is_on_a_board_or_in_an_alert_or_named_here() -> None:
    """A number that nobody looks at costs as much as one that somebody does."""
    told = " ".join(expr for _, expr in EXPRESSIONS)
    unseen = {prefix + m.name for prefix, table, _ in TABLES for m in table if prefix + m.name not in told}
    assert unseen <= UNSEEN, f"show them, or say why not: {unseen - UNSEEN}"


UNSEEN = {
    "stepwire_build_info",
    "stepwire_host_build_info",
    # For looking closer than a board does, with an expression of one's own.
    "stepwire_damaged_rows_total",
    "stepwire_attempt_seconds",
    "stepwire_host_cancels_total",
    "stepwire_host_connected",
    "stepwire_host_bodies_refused_total",
    "stepwire_host_bodies_given_back_total",
    "stepwire_host_body_entries_total",
    "stepwire_host_frame_bytes_total",
    "stepwire_host_frames_total",
    "stepwire_host_late_results_total",
    "stepwire_host_log_lines_total",
    "stepwire_log_lines_total",
    "stepwire_host_replay_seconds",
    "stepwire_host_replays_total",
}


def test_the_files_in_deploy_are_those_of_this_version() -> None:
    for name, text in files(provisioning=True).items():
        assert (DEPLOY / name).read_text(encoding="utf-8") == text, (
            f"deploy/{name} is stale: run `stepwire dashboards export --dir deploy --provisioning`"
        )
