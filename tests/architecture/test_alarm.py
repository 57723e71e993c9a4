"""A test that hangs ends: its alarm rings until the test hears it (tests/conftest.py)."""

from __future__ import annotations

import signal

import pytest


def test_the_alarm_rings_again_if_a_callback_swallowed_it() -> None:
    left, again = signal.getitimer(signal.ITIMER_REAL)
    if not left:
        pytest.skip("no alarm is set: --timeout 0, or another method")
    assert again > 0
