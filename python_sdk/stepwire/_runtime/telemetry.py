"""Every metric of a step host in one table, and the numbers behind it (MISSION V1, DESIGN 7).

The runtime adds to plain ints; a collector turns them into Prometheus families when the application scrapes. How that
is done is in `stepwire.metrics`. Counts may be taken from several threads, so a number may miss an addition under
contention; they are for dashboards, the journal is the record.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry

from stepwire.metrics import LAG_SECONDS, SHORT_SECONDS, Definition, Histogram, Kind, Numbers, NumbersCollector
from stepwire.protocol.frames import CancelReason
from stepwire.protocol.plan import StepKind

__all__ = ("METRICS", "PREFIX", "HostTelemetry", "Kind", "export")

PREFIX = "stepwire_host_"

_KIND = tuple(kind.name.lower() for kind in (StepKind.RUN, StepKind.TASK))
_OUTCOME = ("ok", "failed", "timeout", "cancelled")
_DIRECTION = ("in", "out")
_HOOK_CAUSE = ("raised", "dropped")
_REASON = tuple(reason.name.lower() for reason in CancelReason)
_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS: tuple[Definition, ...] = (
    # Attempts
    Definition("attempts_total", _C, "Attempts that ended on this host.", {"kind": _KIND, "outcome": _OUTCOME}),
    Definition("attempt_seconds", _H, "Duration of an attempt.", {"kind": _KIND}, SHORT_SECONDS),
    Definition("attempts_abandoned_total", _C, "Attempts given up because they did not stop when they were told to."),
    Definition("late_results_total", _C, "Ends of attempts that had been given up; dropped."),
    Definition("cancels_total", _C, "Cancels received.", {"reason": _REASON}),
    Definition("slots", _G, "Slots of this host.", {"state": ("busy", "free")}),
    # Bodies
    Definition("body_entries_total", _C, "Flow bodies entered, replays included."),
    Definition("replays_total", _C, "Flow bodies entered with a journal to replay."),
    Definition("replay_seconds", _H, "From entering a body with a journal until it has caught up.",
               buckets=SHORT_SECONDS),
    Definition("bodies_given_back_total", _C, "Flow bodies given back to the engine to stay within the host's bounds."),
    Definition("bodies_refused_total", _C, "Flow bodies not entered for want of room."),
    Definition("bodies_live", _G, "Flow bodies suspended in memory."),
    # The session
    Definition("connected", _G, "1 while the engine has welcomed this host."),
    Definition("reconnects_total", _C, "Streams opened after the first."),
    Definition("frames_total", _C, "Frames exchanged with the engine.", {"direction": _DIRECTION}),
    Definition("frame_bytes_total", _C, "Encoded size of those frames.", {"direction": _DIRECTION}),
    Definition("loop_lag_seconds", _H, "How late the application's loop woke up.", buckets=LAG_SECONDS),
    Definition("log_lines_total", _C, "Log lines of flows and steps, sent to the engine or dropped for want of room.",
               {"outcome": ("shipped", "dropped")}),
    Definition("hook_failures_total", _C, "Calls of hooks that raised, or were dropped.", {"cause": _HOOK_CAUSE}),
    Definition("build_info", _G, "Always 1; `loop` is empty before the host starts.", {"version": (), "loop": ()}),
)  # fmt: skip


class HostTelemetry(Numbers):
    """The numbers of one host; see Numbers. Every series is labelled with the host's name as `service`."""

    attempts: dict[tuple[str, str], int]
    attempt_seconds: dict[str, Histogram]
    attempts_abandoned: int
    late_results: int
    cancels: dict[str, int]
    slots: dict[str, int]
    body_entries: int
    replays: int
    replay_seconds: Histogram
    bodies_given_back: int
    bodies_refused: int
    bodies_live: int
    connected: int
    reconnects: int
    frames: dict[str, int]
    frame_bytes: dict[str, int]
    loop_lag_seconds: Histogram
    log_lines: dict[str, int]
    hook_failures: dict[str, int]
    build_info: dict[tuple[str, str], int]

    def __init__(self, service: str, version: str = "") -> None:
        super().__init__(PREFIX, METRICS, {"service": service})
        self.build_info[version, ""] = 1

    def runs_on(self, loop: str) -> None:
        """The host was started on such an event loop."""
        self.build_info = {(version, loop): 1 for version, _ in self.build_info}


_exported: WeakKeyDictionary[CollectorRegistry, Any] = WeakKeyDictionary()
_exporting = threading.Lock()


def export(telemetry: HostTelemetry, registry: CollectorRegistry) -> None:
    """Let `registry` export these numbers, beside those of other hosts it exports already."""
    with _exporting:
        collector = _exported.get(registry)
        if collector is None:
            _exported[registry] = collector = NumbersCollector(telemetry)
            registry.register(collector)
        else:
            collector.add(telemetry)
