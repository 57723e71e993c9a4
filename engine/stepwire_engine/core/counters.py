"""Plain counts of what the core did; telemetry exports them. The hot path adds per frame, or appends to a list."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple


class EndedRun(NamedTuple):
    """A run whose end is committed."""

    flow: str
    seconds: float
    ended_at_ms: int
    labels: Mapping[str, str]
    """What to look it up by."""


class Counters:
    """Counts since the engine started. Keys of the `Counter`s come from closed sets.

    Whoever exports them empties the lists; durations are in seconds, by kind of step.
    """

    def __init__(self) -> None:
        self.runs_started: Counter[str] = Counter()
        self.runs_finished: Counter[tuple[str, str]] = Counter()
        self.runs_ended: list[EndedRun] = []
        self.steps_finished: Counter[tuple[str, str]] = Counter()
        self.step_duration_seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.attempt_seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.schedule_to_start_seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.retries: Counter[str] = Counter()
        self.poison: Counter[str] = Counter()
        self.groups_finished: Counter[tuple[str, str]] = Counter()
        self.group_width: defaultdict[str, list[float]] = defaultdict(list)
        self.attempts_lost: Counter[str] = Counter()
        self.body_evictions: Counter[str] = Counter()
        self.cancels_sent: Counter[str] = Counter()
        self.reconciled: Counter[str] = Counter()
        self.events_received: Counter[str] = Counter()
        self.log_lines: Counter[str] = Counter()
        self.timer_lags: list[float] = []
        self.damaged_rows = 0
        self.advances = 0
        self.executes = 0
        self.host_starts = 0
        self.body_entries = 0
        self.live_body_hits = 0
        self.live_body_misses = 0
        self.sessions_resumed = 0
        self.attempts_adopted = 0
        self.bodies_adopted = 0
        self.stale_results = 0
        self.repeated_results = 0
        self.repeated_plans = 0
        self.rejects = 0
        self.dormant = 0
        """Runs whose record says WAITING; not a count since the start, and it falls as well."""
