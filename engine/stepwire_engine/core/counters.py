"""Plain counts of what the core did; telemetry exports them. Integers only: the hot path adds per frame."""

from __future__ import annotations

from collections import Counter


class Counters:
    """Counts since the engine started. Keys of the `Counter`s come from closed sets."""

    def __init__(self) -> None:
        self.runs_started: Counter[str] = Counter()
        self.runs_finished: Counter[tuple[str, str]] = Counter()
        self.run_seconds: list[tuple[str, float]] = []
        self.steps_finished: Counter[tuple[str, str]] = Counter()
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.retries: Counter[str] = Counter()
        self.groups_finished: Counter[tuple[str, str]] = Counter()
        self.attempts_lost: Counter[str] = Counter()
        self.cancels_sent: Counter[str] = Counter()
        self.advances = 0
        self.executes = 0
        self.host_starts = 0
        self.body_entries = 0
        self.sessions_resumed = 0
        self.attempts_adopted = 0
        self.bodies_adopted = 0
        self.stale_results = 0
        self.repeated_results = 0
        self.repeated_plans = 0
        self.rejects = 0
