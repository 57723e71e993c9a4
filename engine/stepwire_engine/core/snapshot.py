"""From a journal to what a host needs to replay it: plans and releases, in order, with their outcomes."""

from __future__ import annotations

from collections.abc import Iterable

from stepwire.protocol.frames import Release, StepOutcome
from stepwire.protocol.plan import Plan
from stepwire_engine.core.entries import AttemptEnded, Entry, Planned, Released


def body_entries(rows: Iterable[Iterable[Entry]], *, after_release: int | None = None) -> list[Plan | Release]:
    """The body's entries of a journal in order.

    Args:
        rows: The run's committed rows from the first.
        after_release: Only releases after this one, for a body that made its plans itself.
    """
    outcomes: dict[str, AttemptEnded] = {}
    found: list[Plan | Release] = []
    for row in rows:
        for entry in row:
            match entry:
                case Planned():
                    if after_release is None:
                        found.append(entry.plan)
                case AttemptEnded(retry_at_ms=None):
                    outcomes[entry.path] = entry
                case Released():
                    if after_release is None or entry.release_seq > after_release:
                        found.append(_release(entry, outcomes))
                case _:
                    pass
    return found


def _release(entry: Released, outcomes: dict[str, AttemptEnded]) -> Release:
    ended = [outcomes[path] for path in entry.paths]
    return Release(
        entry.release_seq,
        entry.at_ms,
        tuple(StepOutcome(e.path, e.output, e.failure) for e in ended),
    )
