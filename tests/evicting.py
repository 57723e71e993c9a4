"""The mode of the test suite in which no host keeps a live body: every release is reached by replay.

`make test ARGS=--always-evict`, or STEPWIRE_TEST_EVICT=always. Hosts of a test process are changed here, host processes
of the end-to-end tests get it through their environment. Only the test tree reads the variable.
"""

from __future__ import annotations

import os

import pytest

from stepwire._runtime import keeping

EVICT_ENV = "STEPWIRE_TEST_EVICT"
REASON = "asserts how often bodies are entered, or that one stays; the mode keeps none"


def always() -> bool:
    """Whether the mode is on."""
    return os.environ.get(EVICT_ENV) == "always"


def keep_no_bodies() -> None:
    """From now on hosts of this process give every body back before its next release."""
    keeping.bounded = lambda count, size, idle: keeping.NoBodies()


def skip_marked(items: list[pytest.Item]) -> None:
    """Tests that are about live bodies say so."""
    for item in items:
        if item.get_closest_marker("live_bodies"):
            item.add_marker(pytest.mark.skip(reason=REASON))


class Entries:
    """How often a body is entered: `assert run.body_entries == Entries(2)`; in the mode it is that often or more."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __eq__(self, entered: object) -> bool:
        if not isinstance(entered, int):
            return NotImplemented
        return entered >= self._count if always() else entered == self._count

    def __hash__(self) -> int:
        return hash(self._count)

    def __repr__(self) -> str:
        return f"{self._count} or more" if always() else str(self._count)
