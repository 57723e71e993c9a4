"""Real processes for what the pages show of clients: the stage of the end-to-end tests."""

from __future__ import annotations

from tests.e2e.conftest import pytest_runtest_makereport, stage

__all__ = ("pytest_runtest_makereport", "stage")
