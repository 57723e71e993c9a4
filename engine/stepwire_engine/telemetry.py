"""Every metric of the engine in one table, and the numbers behind it (MISSION V1, DESIGN 7).

The hot path adds to plain ints once per frame; nothing here is called per step. One collector turns the
numbers into Prometheus families when someone scrapes. Labels come from closed sets: never a run, a path or
an error text. Flow and service names are capped, later ones are counted as `__other__`.
"""

from __future__ import annotations

import enum
import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stepwire.protocol.frames import CancelReason
from stepwire.protocol.plan import ParallelMode, StepKind, Verdict
from stepwire_engine.core.counters import Counters
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.reasons import WaitReason

PREFIX = "stepwire_"
OTHER = "__other__"
FLOWS_MAX = 200
SERVICES_MAX = 100

# ---- label sets


class Open(enum.Enum):
    """Labels whose values come from outside, and how many values each may have."""

    FLOW = FLOWS_MAX
    SERVICE = SERVICES_MAX


def _names(members: Any) -> tuple[str, ...]:
    return tuple(member.name.lower() for member in members)


_KIND = _names(StepKind)
_STATE = _names(RunState)
_FINAL_STATE = tuple(state.name.lower() for state in RunState if state.terminal)
_ATTEMPT = ("ok", "failed", "timeout")
_MODE, _VERDICT = _names(ParallelMode), _names(Verdict)
_DIRECTION = ("in", "out")
_WAITING = _names(WaitReason)

_RUN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60, 300, 1800, 7200, 86_400)
_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_UNITS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# ---- the table


class Kind(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Attributes:
        name: Without the prefix; the slot of Telemetry has the same name without `_total`.
        labels: Name and closed set of values, or an Open set, in the order of the slot's key.
        buckets: Upper bounds of a histogram, without infinity.
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, tuple[str, ...] | Open] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()

    @property
    def slot(self) -> str:
        return self.name.removesuffix("_total")

    def zero(self) -> Any:
        """The value of one series before anything happened."""
        return Histogram(self.buckets) if self.kind is Kind.HISTOGRAM else 0

    def series(self, known: Mapping[Open, Sequence[str]]) -> Iterator[Any]:
        """Keys of all series: a text for one label, a tuple for more."""
        values = [known[v] if isinstance(v, Open) else v for v in self.labels.values()]
        return (key[0] if len(key) == 1 else key for key in itertools.product(*values))


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS: tuple[Definition, ...] = (
    Definition("runs_started_total", _C, "Runs accepted.", {"flow": Open.FLOW}),
    Definition("runs_finished_total", _C, "Runs that ended.", {"flow": Open.FLOW, "state": _FINAL_STATE}),
    Definition("run_duration_seconds", _H, "From start to end of a run.", {"flow": Open.FLOW}, _RUN_SECONDS),
    Definition("runs", _G, "Runs in memory by state.", {"state": _STATE}),
    Definition("waiting_runs", _G, "Runs by the first reason they wait for.", {"reason": _WAITING}),
    Definition("steps_finished_total", _C, "Steps that ended.", {"kind": _KIND, "outcome": _FINAL_STATE}),
    Definition("attempts_total", _C, "Attempts with an outcome.", {"kind": _KIND, "outcome": _ATTEMPT}),
    Definition("step_retries_total", _C, "Attempts that are followed by another.", {"flow": Open.FLOW}),
    Definition("groups_finished_total", _C, "Groups that ended.", {"mode": _MODE, "verdict": _VERDICT}),
    Definition("frames_total", _C, "Frames exchanged with hosts.", {"direction": _DIRECTION}),
    Definition("frame_bytes_total", _C, "Encoded size of those frames.", {"direction": _DIRECTION}),
    Definition("advances_total", _C, "Advances sent."),
    Definition("executes_total", _C, "Executes sent."),
    Definition("host_starts_total", _C, "Closures that the planning host started itself."),
    Definition("body_entries_total", _C, "Snapshots sent, each of which enters a flow body anew."),
    Definition("rejects_total", _C, "Executes that a host refused."),
    Definition("sessions_connected", _G, "Hosts connected.", {"service": Open.SERVICE}),
    Definition(
        "session_slots",
        _G,
        "Slots of connected hosts, as the engine sees them.",
        {"service": Open.SERVICE, "state": ("busy", "free")},
    ),
    Definition("sessions_resumed_total", _C, "Sessions that came back with what they held."),
    Definition("bodies_adopted_total", _C, "Live bodies kept over a resume."),
    Definition("attempts_adopted_total", _C, "Attempts in progress kept over a resume."),
    Definition("attempts_lost_total", _C, "Attempts whose host was lost.", {"cause": ("silence", "stream_end")}),
    Definition("stale_results_total", _C, "Results dropped because of a superseded fence."),
    Definition("repeated_results_total", _C, "Results received again after their commit."),
    Definition("repeated_plans_total", _C, "Plans received again after their commit."),
    Definition("cancels_sent_total", _C, "Cancels sent.", {"reason": _names(CancelReason)}),
    Definition("commit_seconds", _H, "Duration of a commit.", buckets=_COMMIT_SECONDS),
    Definition("commit_units", _H, "Units that shared a commit.", buckets=_UNITS),
    Definition("commit_bytes_total", _C, "Bytes of journal rows and payloads committed."),
    Definition("loop_lag_seconds", _H, "How late the loop of the engine woke up.", buckets=_LAG_SECONDS),
    Definition("capped_labels", _G, "1 once values of this label are counted as __other__.", {"label": _names(Open)}),
    Definition("build_info", _G, "Always 1.", {"version": (), "storage": ()}),
)  # fmt: skip


class Histogram:
    """Counts per bucket, and a sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Telemetry:
    """The numbers. Slots without labels are ints, slots with labels dicts from label values to ints.

    Add in place, e.g. `telemetry.frames["in"] += 1`; an unknown closed value is a KeyError. Names of flows
    and services must go through `flow()` and `service()` first. Gauges that are read rather than counted are
    set by functions in `refresh`, which every scrape calls first.

    Not thread-safe: everything, scrapes included, happens on the engine's loop.
    """

    runs_started: dict[str, int]
    runs_finished: dict[tuple[str, str], int]
    run_duration_seconds: dict[str, Histogram]
    runs: dict[str, int]
    waiting_runs: dict[str, int]
    steps_finished: dict[tuple[str, str], int]
    attempts: dict[tuple[str, str], int]
    step_retries: dict[str, int]
    groups_finished: dict[tuple[str, str], int]
    frames: dict[str, int]
    frame_bytes: dict[str, int]
    advances: int
    executes: int
    host_starts: int
    body_entries: int
    rejects: int
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
    commit_seconds: Histogram
    commit_units: Histogram
    commit_bytes: int
    loop_lag_seconds: Histogram
    capped_labels: dict[str, int]
    build_info: dict[tuple[str, str], int]

    def __init__(self, *, version: str, storage: str) -> None:
        self._known: dict[Open, list[str]] = {label: [] for label in Open}
        self.refresh: list[Callable[[], None]] = []
        for metric in METRICS:
            value = {key: metric.zero() for key in metric.series(self._known)} if metric.labels else metric.zero()
            setattr(self, metric.slot, value)
        self.build_info[version, storage] = 1

    def flow(self, name: str) -> str:
        """The label of a flow. Its first use creates the zero series of that flow in every metric."""
        return name if name in self.runs_started else self._admit(Open.FLOW, name)

    def service(self, name: str) -> str:
        """The label of a service, likewise."""
        return name if name in self.sessions_connected else self._admit(Open.SERVICE, name)

    def _admit(self, label: Open, name: str) -> str:
        known = self._known[label]
        if len(known) >= label.value:
            self.capped_labels[label.name.lower()] = 1
            if known[-1] == OTHER:
                return OTHER
            name = OTHER
        known.append(name)
        for metric in METRICS:
            if label in metric.labels.values():
                slot = getattr(self, metric.slot)
                for key in metric.series({**self._known, label: [name]}):
                    slot.setdefault(key, metric.zero())
        return name

    def absorb(self, counters: Counters) -> None:
        """Take over what the pure core counted since the engine started, and empty its list of durations.

        Call it on every tick: the list grows until then.
        """
        for slot in _CORE_INTEGERS:
            setattr(self, slot, getattr(counters, slot))
        self.steps_finished.update(counters.steps_finished)
        self.attempts.update(counters.attempts)
        self.groups_finished.update(counters.groups_finished)
        self.attempts_lost.update(counters.attempts_lost)
        self.cancels_sent.update(counters.cancels_sent)
        self.runs_started.update(self._by_flow(counters.runs_started))
        self.step_retries.update(self._by_flow(counters.retries))
        finished: Counter[tuple[str, str]] = Counter()
        for (flow, state), n in counters.runs_finished.items():
            finished[self.flow(flow), state] += n
        self.runs_finished.update(finished)
        for flow, seconds in counters.run_seconds:
            self.run_duration_seconds[self.flow(flow)].observe(seconds)
        counters.run_seconds.clear()

    def _by_flow(self, counts: Mapping[str, int]) -> Counter[str]:
        labelled: Counter[str] = Counter()
        for flow, n in counts.items():
            labelled[self.flow(flow)] += n
        return labelled


_CORE_INTEGERS = (
    "advances", "executes", "host_starts", "body_entries", "sessions_resumed", "bodies_adopted", "attempts_adopted",
    "stale_results", "repeated_results", "repeated_plans", "rejects",
)  # fmt: skip
"""Slots that have the same name in `core.counters.Counters`."""


# ---- export


def metrics_registry(telemetry: Telemetry) -> CollectorRegistry:
    """A registry of its own with the engine's metrics and those of its process."""
    registry = CollectorRegistry()
    registry.register(_EngineCollector(telemetry))
    ProcessCollector(registry=registry)
    return registry


class _EngineCollector(Collector):
    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def describe(self) -> Iterator[Metric]:
        """Names for the registry, without refreshing anything."""
        return (_family(metric) for metric in METRICS)

    def collect(self) -> Iterator[Metric]:
        for refresh in self._telemetry.refresh:
            refresh()
        for metric in METRICS:
            yield _filled(metric, getattr(self._telemetry, metric.slot))


_FAMILIES = {_C: CounterMetricFamily, _G: GaugeMetricFamily, _H: HistogramMetricFamily}


def _family(metric: Definition) -> Any:
    return _FAMILIES[metric.kind](PREFIX + metric.name, metric.help, labels=list(metric.labels))


def _filled(metric: Definition, slot: Any) -> Metric:
    family: Any = _family(metric)
    for key, value in slot.items() if metric.labels else (((), slot),):
        labels = [key] if isinstance(key, str) else list(key)
        if isinstance(value, Histogram):
            bounds = [*(repr(float(bound)) for bound in value.bounds), "+Inf"]
            family.add_metric(labels, list(zip(bounds, itertools.accumulate(value.counts), strict=True)), value.total)
        else:
            family.add_metric(labels, value)
    return family  # type: ignore[no-any-return]
