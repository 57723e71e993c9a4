"""Every metric of a step host in one table, and the numbers behind it (MISSION V1, DESIGN 7).

The runtime adds to plain ints; one collector turns them into Prometheus families when the application
scrapes. Labels come from closed sets: never a run, a path or an error text. Counts may be taken from several
threads, so a number may miss an addition under contention; they are for dashboards, the journal is the record.
"""

from __future__ import annotations

import enum
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stepwire.protocol.plan import StepKind

PREFIX = "stepwire_host_"

_KIND = tuple(kind.name.lower() for kind in (StepKind.RUN, StepKind.TASK))
_OUTCOME = ("ok", "failed", "timeout", "cancelled")
_DIRECTION = ("in", "out")
_HOOK_CAUSE = ("raised", "dropped")
_ATTEMPT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Kind(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Attributes:
        name: Without the prefix; the slot of HostTelemetry has the same name without `_total`.
        labels: Name and closed set of values, in the order of the slot's key.
        buckets: Upper bounds of a histogram, without infinity.
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()

    @property
    def slot(self) -> str:
        return self.name.removesuffix("_total")

    def zero(self) -> Any:
        """The slot before anything happened: an int, a Histogram, or a dict of them by label values."""
        keys = (key[0] if len(key) == 1 else key for key in itertools.product(*self.labels.values()))
        return {key: self._one() for key in keys} if self.labels else self._one()

    def _one(self) -> Any:
        return Histogram(self.buckets) if self.kind is Kind.HISTOGRAM else 0


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS: tuple[Definition, ...] = (
    Definition("attempts_total", _C, "Attempts that ended on this host.", {"kind": _KIND, "outcome": _OUTCOME}),
    Definition("attempts_abandoned_total", _C, "Attempts given up because they did not stop when they were told to."),
    Definition("late_results_total", _C, "Ends of attempts that had been given up; dropped."),
    Definition("attempt_seconds", _H, "Duration of an attempt.", {"kind": _KIND}, _ATTEMPT_SECONDS),
    Definition("body_entries_total", _C, "Flow bodies entered, replays included."),
    Definition("replays_total", _C, "Flow bodies entered with a journal to replay."),
    Definition("bodies_live", _G, "Flow bodies suspended in memory."),
    Definition("slots", _G, "Slots of this host.", {"state": ("busy", "free")}),
    Definition("reconnects_total", _C, "Streams opened after the first."),
    Definition("loop_lag_seconds", _H, "How late the application's loop woke up.", buckets=_LAG_SECONDS),
    Definition("frames_total", _C, "Frames exchanged with the engine.", {"direction": _DIRECTION}),
    Definition("hook_failures_total", _C, "Calls of hooks that raised, or were dropped.", {"cause": _HOOK_CAUSE}),
)


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


class HostTelemetry:
    """The numbers of one host: ints, or dicts from label values to ints.

    Add in place, e.g. `telemetry.attempts["run", "ok"] += 1`; an unknown label value is a KeyError. Gauges
    that are read rather than counted are set by functions in `refresh`, which every scrape calls first.
    """

    attempts: dict[tuple[str, str], int]
    attempts_abandoned: int
    late_results: int
    attempt_seconds: dict[str, Histogram]
    body_entries: int
    replays: int
    bodies_live: int
    slots: dict[str, int]
    reconnects: int
    loop_lag_seconds: Histogram
    frames: dict[str, int]
    hook_failures: dict[str, int]

    def __init__(self) -> None:
        self.refresh: list[Callable[[], None]] = []
        for metric in METRICS:
            setattr(self, metric.slot, metric.zero())


def host_registry(telemetry: HostTelemetry) -> CollectorRegistry:
    """A registry of its own; an application may register `HostCollector` in its registry instead."""
    registry = CollectorRegistry()
    registry.register(HostCollector(telemetry))
    return registry


class HostCollector(Collector):
    """Exports one HostTelemetry."""

    def __init__(self, telemetry: HostTelemetry) -> None:
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
