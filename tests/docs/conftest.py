"""The stage of the end-to-end tests for what the pages show of clients, and no provider of spans of another page."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.util._once import Once

from tests.e2e.conftest import pytest_runtest_makereport, stage

__all__ = ("pytest_runtest_makereport", "stage")


@pytest.fixture(autouse=True)
def unconfigured_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page may configure OpenTelemetry, which it lets a process do once."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
