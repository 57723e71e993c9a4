"""Real processes for the examples: the stage of the end-to-end tests."""

from __future__ import annotations

from tests.e2e.conftest import pytest_runtest_makereport, shared_stage, stage

__all__ = ("pytest_runtest_makereport", "shared_stage", "stage")
