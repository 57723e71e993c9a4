"""From a journal to what a host needs to replay it: plans and releases, in order, with their outcomes."""

from __future__ import annotations

from collections.abc import Iterable

from stepwire.protocol.frames import Release, StepOutcome
from stepwire.protocol.plan import Plan
from stepwire_engine.core.deadlines import group_timeout
from stepwire_engine.core.entries import AttemptEnded, Entry, GroupExpired, Planned, Released


def body_entries(rows: Iterable[Iterable[Entry]], *, after_release: int | None = None) -> list[Plan | Release]:
    """The body's entries of a journal in order.

    Args:
        rows: The run's committed rows from the first.
        after_release: Only releases after this one, for a body that made its plans itself.
    """
    reading = _Reading()
    found: list[Plan | Release] = []
    for row in rows:
        for entry in row:
            match entry:
                case Planned():
                    reading.plan(entry)
                    if after_release is None:
                        found.append(entry.plan)
                case AttemptEnded(retry_at_ms=None):
                    reading.ended[entry.path] = entry
                case GroupExpired():
                    reading.expired.add(entry.path)
                case Released():
                    if after_release is None or entry.release_seq > after_release:
                        found.append(reading.release(entry))
                case _:
                    pass
    return found


class _Reading:
    """What the entries read so far say about outcomes."""

    def __init__(self) -> None:
        self.ended: dict[str, AttemptEnded] = {}
        self.expired: set[str] = set()
        self._planned_ms: dict[str, int] = {}
        self._deadlines: dict[str, float | None] = {}

    def plan(self, entry: Planned) -> None:
        for step in entry.plan.steps:
            self._planned_ms[step.path] = entry.at_ms
        for group in entry.plan.groups:
            if group.deadline is not None:
                self._deadlines[group.path] = group.deadline

    def release(self, entry: Released) -> Release:
        return Release(entry.release_seq, entry.at_ms, tuple([self._outcome(path) for path in entry.paths]))

    def _outcome(self, path: str) -> StepOutcome:
        if path in self.expired:
            return StepOutcome(path, None, group_timeout(path, self._deadlines[path]))
        ended = self.ended[path]
        took_ms = max(0, ended.at_ms - self._planned_ms[path])
        return StepOutcome(path, ended.output, ended.failure, False, ended.attempt, took_ms)
