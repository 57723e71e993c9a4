"""From the core's books to the engine's metrics. Counted per commit and per scrape, never per step (DESIGN 7)."""

from __future__ import annotations

from collections import Counter, deque

from stepwire_engine.clock import Clock
from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.reasons import Lack, WaitReason, run_reason
from stepwire_engine.scheduler.ports import ENGINE_INSTANCE
from stepwire_engine.telemetry import Telemetry

_COMMITS_KEPT = 100_000


class Gauges:
    """Mirrors one core into one Telemetry. `refresh` runs at every scrape and on the loop's steady beat."""

    def __init__(self, core: EngineCore, telemetry: Telemetry, commits: CommitLog, clock: Clock, lacks: Lack) -> None:
        self._core = core
        self._clock = clock
        self._lacks = lacks
        self._telemetry = telemetry
        self._commits = commits
        telemetry.refresh.append(self.refresh)

    def detach(self) -> None:
        """Mirror no longer."""
        if self.refresh in self._telemetry.refresh:
            self._telemetry.refresh.remove(self.refresh)

    def absorb(self) -> None:
        """Take over what must not pile up between scrapes."""
        self._telemetry.absorb(self._core.counters)
        self._commits.drain(self._telemetry)

    def refresh(self) -> None:
        """Bring every number up to date."""
        self.absorb()
        telemetry = self._telemetry
        states = Counter(run.state for run in self._core.runs.values())
        states[RunState.WAITING] = self._core.counters.dormant
        telemetry.runs.update({state.name.lower(): states[state] for state in RunState})
        now = self._clock.now().unix_ms
        reasons = Counter(run_reason(run.state, run, now, self._lacks) for run in self._core.runs.values())
        reasons[WaitReason.JOURNAL_UNREADABLE] = len(self._core.unreadable)
        telemetry.waiting_runs.update({reason.name.lower(): reasons[reason] for reason in WaitReason})
        telemetry.quarantined_runs = len(self._core.unreadable)
        connected = dict.fromkeys(telemetry.sessions_connected, 0)
        slots = dict.fromkeys(telemetry.session_slots, 0)
        for session in self._core.sessions.values():
            if session.connected:
                service = telemetry.service(session.service)
                busy = session.busy_slots
                if session.instance_id != ENGINE_INSTANCE:
                    # Who counts hosts counts those that people run; the slots of the engine's own are of interest.
                    connected[service] = connected.get(service, 0) + 1
                slots[service, "busy"] = slots.get((service, "busy"), 0) + busy
                slots[service, "free"] = slots.get((service, "free"), 0) + max(0, session.slots - busy)
        telemetry.sessions_connected.update(connected)
        telemetry.session_slots.update(slots)


class CommitLog:
    """What the journal thread tells about commits, until the loop takes it: metrics are not thread-safe."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque(maxlen=_COMMITS_KEPT)

    def observe(self, seconds: float, units: int, size: int) -> None:
        """Note a commit; callable from any thread."""
        self._seen.append((seconds, units, size))

    def drain(self, telemetry: Telemetry) -> None:
        """Count what was noted. On the loop."""
        while self._seen:
            seconds, units, size = self._seen.popleft()
            telemetry.commit_seconds.observe(seconds)
            telemetry.commit_units.observe(units)
            telemetry.commit_bytes += size
