"""Every metric of the engine in one table, and the numbers behind it (MISSION V1, DESIGN 7).

The hot path adds to plain ints and lists once per frame; nothing here is called per step. `docs/reference/metrics.md`
is made from this table, and so are dashboards and alerts checked against it. How numbers are kept and exported is in
`stepwire.metrics`; this module must not read the state of runs, `scheduler/gauges.py` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector

from stepwire.metrics import (
    LAG_SECONDS,
    OTHER,
    SHORT_SECONDS,
    Definition,
    Histogram,
    Kind,
    Numbers,
    NumbersCollector,
    Open,
    registry_of,
)
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import CancelReason
from stepwire.protocol.plan import ParallelMode, StepKind, Verdict
from stepwire_engine.core.counters import Counters
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.owners import Missing
from stepwire_engine.core.reasons import WaitReason

__all__ = ("FLOW", "FLOWS_MAX", "METRICS", "OTHER", "PREFIX", "SERVICE", "SERVICES_MAX", "Kind", "Telemetry")

PREFIX = "stepwire_"
FLOWS_MAX = 200
SERVICES_MAX = 100
FLOW = Open("flow", FLOWS_MAX)
SERVICE = Open("service", SERVICES_MAX)

# ---- label sets


def _names(members: Any) -> tuple[str, ...]:
    return tuple(member.name.lower() for member in members)


_KIND = _names(StepKind)
_STATE = _names(RunState)
_FINAL_STATE = tuple(state.name.lower() for state in RunState if state.terminal)
_ATTEMPT = ("ok", "failed", "timeout")
_MODE, _VERDICT = _names(ParallelMode), _names(Verdict)
_DIRECTION = ("in", "out")
_WAITING = _names(WaitReason)
_CODE = ("ok", *(code.slug for code in ErrorCode))
METHODS = (
    "Start",
    "StartMany",
    "Get",
    "Explain",
    "List",
    "Watch",
    "Await",
    "AwaitOne",
    "StartAndAwait",
    "Resume",
    "Cancel",
    "SendEvent",
    "Logs",
)
"""Of RunService."""

_RUN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60, 300, 1800, 7200, 86_400)
_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_UNITS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_WIDTH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)

# ---- the table

_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS: tuple[Definition, ...] = (
    # Runs
    Definition("runs_started_total", _C, "Runs accepted.", {"flow": FLOW}),
    Definition("runs_finished_total", _C, "Runs that ended.", {"flow": FLOW, "state": _FINAL_STATE}),
    Definition("run_duration_seconds", _H, "From start to end of a run.", {"flow": FLOW}, _RUN_SECONDS),
    Definition("runs", _G, "Open runs by state; waiting ones are on disk only.", {"state": _STATE}),
    Definition("waiting_runs", _G, "Runs in memory by the first reason they wait for.", {"reason": _WAITING}),
    # Steps, attempts, groups
    Definition("steps_finished_total", _C, "Steps that ended.", {"kind": _KIND, "outcome": _FINAL_STATE}),
    Definition("step_duration_seconds", _H, "From the plan of a step to its outcome.", {"kind": _KIND}, SHORT_SECONDS),
    Definition("attempts_total", _C, "Attempts with an outcome.", {"kind": _KIND, "outcome": _ATTEMPT}),
    Definition("attempt_seconds", _H, "Execution of an attempt, as its host measured it.", {"kind": _KIND},
               SHORT_SECONDS),
    Definition("schedule_to_start_seconds", _H, "From an attempt being due to its start; 0 where its host began it.",
               {"kind": _KIND}, SHORT_SECONDS),
    Definition("step_retries_total", _C, "Attempts that are followed by another.", {"flow": FLOW}),
    Definition("poison_total", _C, "Steps and flows given up because they lost host after host.",
               {"what": ("step", "flow")}),
    Definition("groups_finished_total", _C, "Groups that ended.", {"mode": _MODE, "verdict": _VERDICT}),
    Definition("group_width", _H, "Branches of groups that were opened.", {"mode": _MODE}, _WIDTH),
    # What goes to hosts and comes from them
    Definition("frames_total", _C, "Frames exchanged with hosts.", {"direction": _DIRECTION}),
    Definition("frame_bytes_total", _C, "Encoded size of those frames.", {"direction": _DIRECTION}),
    Definition("advances_total", _C, "Advances sent."),
    Definition("executes_total", _C, "Executes sent."),
    Definition("host_starts_total", _C, "Closures that the planning host started itself."),
    Definition("rejects_total", _C, "Executes that a host refused."),
    Definition("body_entries_total", _C, "Snapshots sent, each of which enters a flow body anew."),
    Definition("live_body_hits_total", _C, "Advances that found the body alive in its host."),
    Definition("live_body_misses_total", _C, "Advances of a started run that had to carry its whole journal."),
    Definition("body_evictions_total", _C, "Live bodies that were given up.", {"by": ("host", "engine")}),
    # Sessions
    Definition("sessions_connected", _G, "Hosts connected.", {"service": SERVICE}),
    Definition("session_slots", _G, "Slots of connected hosts, as the engine sees them.",
               {"service": SERVICE, "state": ("busy", "free")}),
    Definition("sessions_resumed_total", _C, "Sessions that came back with what they held."),
    Definition("bodies_adopted_total", _C, "Live bodies kept over a resume."),
    Definition("attempts_adopted_total", _C, "Attempts in progress kept over a resume."),
    Definition("attempts_lost_total", _C, "Attempts whose host was lost.", {"cause": ("silence", "stream_end")}),
    Definition("stale_results_total", _C, "Results dropped because of a superseded fence."),
    Definition("repeated_results_total", _C, "Results received again after their commit."),
    Definition("repeated_plans_total", _C, "Plans received again after their commit."),
    Definition("cancels_sent_total", _C, "Cancels sent.", {"reason": _names(CancelReason)}),
    Definition("reconciled_total", _C,
               "Runs and steps that had not exactly one owner and were put right; each is a defect of the engine.",
               {"kind": tuple(missing.value for missing in Missing)}),
    # Clients
    Definition("rpcs_total", _C, "Calls of clients that were answered.", {"method": METHODS, "code": _CODE}),
    Definition("events_received_total", _C, "Events that were sent to the engine.",
               {"outcome": ("accepted", "duplicate")}),
    Definition("log_lines_total", _C, "Log lines of flows and steps, stored or dropped for want of room.",
               {"outcome": ("stored", "dropped")}),
    # The engine itself
    Definition("quarantined_runs", _G, "Open runs that are kept aside: what the store has of them is damaged."),
    Definition("damaged_rows_total", _C, "Rows of the store that were met and are not what was written."),
    Definition("commit_seconds", _H, "Duration of a commit.", buckets=_COMMIT_SECONDS),
    Definition("commit_units", _H, "Units that shared a commit.", buckets=_UNITS),
    Definition("commit_bytes_total", _C, "Bytes of journal rows and payloads committed."),
    Definition("storage_bytes", _G, "Size of the database with its write-ahead log."),
    Definition("timer_lag_seconds", _H, "How late timers fired.", buckets=LAG_SECONDS),
    Definition("loop_lag_seconds", _H, "How late the loop of the engine woke up.", buckets=LAG_SECONDS),
    Definition("capped_labels", _G, "1 once values of this label are counted as __other__.",
               {"label": (FLOW.name, SERVICE.name)}),
    Definition("build_info", _G, "Always 1.", {"version": (), "storage": (), "loop": ()}),
)  # fmt: skip


class Telemetry(Numbers):
    """The numbers of the engine; see Numbers. Names of flows and services go through `flow()` and `service()` first.

    Not thread-safe: everything, scrapes included, happens on the engine's loop.
    """

    runs_started: dict[str, int]
    runs_finished: dict[tuple[str, str], int]
    run_duration_seconds: dict[str, Histogram]
    runs: dict[str, int]
    waiting_runs: dict[str, int]
    steps_finished: dict[tuple[str, str], int]
    step_duration_seconds: dict[str, Histogram]
    attempts: dict[tuple[str, str], int]
    attempt_seconds: dict[str, Histogram]
    schedule_to_start_seconds: dict[str, Histogram]
    step_retries: dict[str, int]
    poison: dict[str, int]
    groups_finished: dict[tuple[str, str], int]
    group_width: dict[str, Histogram]
    frames: dict[str, int]
    frame_bytes: dict[str, int]
    advances: int
    executes: int
    host_starts: int
    rejects: int
    body_entries: int
    live_body_hits: int
    live_body_misses: int
    body_evictions: dict[str, int]
    sessions_connected: dict[str, int]
    session_slots: dict[tuple[str, str], int]
    sessions_resumed: int
    bodies_adopted: int
    attempts_adopted: int
    attempts_lost: dict[str, int]
    stale_results: int
    repeated_results: int
    repeated_plans: int
    cancels_sent: dict[str, int]
    reconciled: dict[str, int]
    rpcs: dict[tuple[str, str], int]
    events_received: dict[str, int]
    log_lines: dict[str, int]
    quarantined_runs: int
    damaged_rows: int
    commit_seconds: Histogram
    commit_units: Histogram
    commit_bytes: int
    storage_bytes: int
    timer_lag_seconds: Histogram
    loop_lag_seconds: Histogram
    capped_labels: dict[str, int]
    build_info: dict[tuple[str, str, str], int]

    def __init__(self, *, version: str, storage: str, loop: str = "asyncio") -> None:
        super().__init__(PREFIX, METRICS)
        self.build_info[version, storage, loop] = 1

    def flow(self, name: str) -> str:
        """The label of a flow. Its first use creates the zero series of that flow in every metric."""
        return name if name in self.runs_started else self.admitted(FLOW, name)

    def service(self, name: str) -> str:
        """The label of a service, likewise."""
        return name if name in self.sessions_connected else self.admitted(SERVICE, name)

    def capped(self, label: Open) -> None:
        self.capped_labels[label.name] = 1

    def absorb(self, counters: Counters) -> None:
        """Take over what the pure core counted since the engine started, and empty its lists of durations.

        Call it on every tick: the lists grow until then.
        """
        for slot in _CORE_INTEGERS:
            setattr(self, slot, getattr(counters, slot))
        for slot in _CORE_COUNTS:
            getattr(self, slot).update(getattr(counters, slot))
        self.runs_started.update(self._by_flow(counters.runs_started))
        self.step_retries.update(self._by_flow(counters.retries))
        finished: Counter[tuple[str, str]] = Counter()
        for (flow, state), n in counters.runs_finished.items():
            finished[self.flow(flow), state] += n
        self.runs_finished.update(finished)
        self._absorb_durations(counters)

    def _absorb_durations(self, counters: Counters) -> None:
        for ended in counters.runs_ended:
            histogram = self.run_duration_seconds[self.flow(ended.flow)]
            histogram.observe(ended.seconds)
            histogram.exemplify(ended.seconds, ended.labels, ended.ended_at_ms / 1000)
        counters.runs_ended.clear()
        for slot in _CORE_SECONDS:
            for kind, values in getattr(counters, slot).items():
                getattr(self, slot)[kind].observe_all(values)
                values.clear()
        for mode, widths in counters.group_width.items():
            self.group_width[mode].observe_all(widths)
            widths.clear()
        self.timer_lag_seconds.observe_all(counters.timer_lags)
        counters.timer_lags.clear()

    def _by_flow(self, counts: Mapping[str, int]) -> Counter[str]:
        labelled: Counter[str] = Counter()
        for flow, n in counts.items():
            labelled[self.flow(flow)] += n
        return labelled


_CORE_INTEGERS = (
    "advances", "executes", "host_starts", "body_entries", "live_body_hits", "live_body_misses", "sessions_resumed",
    "bodies_adopted", "attempts_adopted", "stale_results", "repeated_results", "repeated_plans", "rejects",
    "damaged_rows",
)  # fmt: skip
_CORE_COUNTS = (
    "steps_finished", "attempts", "poison", "groups_finished", "body_evictions", "attempts_lost", "cancels_sent",
    "events_received", "reconciled", "log_lines",
)  # fmt: skip
_CORE_SECONDS = ("step_duration_seconds", "attempt_seconds", "schedule_to_start_seconds")
"""Slots that have the same name in `core.counters.Counters`."""


def metrics_registry(telemetry: Telemetry) -> CollectorRegistry:
    """A registry of its own with the engine's metrics and those of its process."""
    registry = registry_of(NumbersCollector(telemetry))
    ProcessCollector(registry=registry)
    return registry
