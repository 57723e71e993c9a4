"""Prometheus takes rules, alerts, configuration and the text of /metrics as they are; each alert has a case."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from stepwire._runtime import telemetry as host
from stepwire_engine import telemetry as engine
from stepwire_engine.monitoring.alerts import ALERTS
from tests.monitoring.tools import needed, run

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def test_prometheus_takes_the_configuration_and_its_rules() -> None:
    assert "SUCCESS" in run("promtool", "check", "config", str(DEPLOY / "prometheus/prometheus.yml"))


def test_every_alert_fires_when_it_should_and_not_before() -> None:
    assert "SUCCESS" in run("promtool", "test", "rules", str(DEPLOY / "prometheus/alerts_test.yml"))


def test_every_alert_has_a_case() -> None:
    cases = re.findall(r"alertname: (\w+)", (DEPLOY / "prometheus/alerts_test.yml").read_text())
    assert {alert.name for alert in ALERTS} == set(cases)


@pytest.mark.parametrize("side", ["engine", "host"])
def test_the_metrics_follow_the_conventions_of_prometheus(side: str) -> None:
    if side == "engine":
        registry = engine.metrics_registry(engine.Telemetry(version="1", storage="sqlite"))
    else:
        registry = CollectorRegistry()
        host.export(host.HostTelemetry("shop", "1"), registry)
    assert run("promtool", "check", "metrics", given=generate_latest(registry).decode()) == ""


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Programs and users it names are not on this machine, so they are replaced by ones that are."""
    needed("systemd-analyze")
    unit = (DEPLOY / "systemd/stepwire-engine.service").read_text()
    unit = unit.replace("/opt/stepwire/bin/stepwire", "/bin/true").replace("=stepwire\n", "=root\n", 2)
    copy = tmp_path / "stepwire-engine.service"
    copy.write_text(unit)
    assert run("systemd-analyze", "verify", "--man=no", str(copy)) == ""
