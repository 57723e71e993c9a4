"""Metrics as plain numbers: a table of definitions, the slots behind it, and the collector that exports them.

Engine and hosts have a table each (MISSION V1) and share what is here. The hot path adds to plain ints and lists, once
per frame; nothing of prometheus_client is called before somebody scrapes. Labels come from closed sets: never a run,
a path or an error text. Names that people choose, such as flows, are capped; later ones are counted as `__other__`.
"""

from __future__ import annotations

import enum
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

OTHER = "__other__"
SHORT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""Buckets for what usually takes milliseconds to minutes."""
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Buckets for what should have happened at once."""


class Kind(enum.Enum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Open:
    """A label whose values come from outside.

    Attributes:
        name: Of the label.
        cap: How many values are told apart; the rest is `__other__`.
    """

    name: str
    cap: int


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Attributes:
        name: Without the prefix; the slot of Numbers has the same name without `_total`.
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

    @property
    def unit(self) -> str:
        """The base unit that its name ends with; empty for plain counts."""
        return next((unit for unit in ("seconds", "bytes") if self.slot.endswith("_" + unit)), "")

    def zero(self) -> Any:
        """The value of one series before anything happened."""
        return Histogram(self.buckets) if self.kind is Kind.HISTOGRAM else 0

    def series(self, known: Mapping[Open, Sequence[str]]) -> Iterator[Any]:
        """Keys of all series: a text for one label, a tuple for more."""
        values = [known[v] if isinstance(v, Open) else v for v in self.labels.values()]
        return (key[0] if len(key) == 1 else key for key in itertools.product(*values))


class Histogram:
    """Counts per bucket, a sum, and for each bucket the last value that somebody can look up."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] | None = None

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Sequence[float]) -> None:
        """The same for many values, at a fraction of the price each."""
        bounds, counts = self.bounds, self.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.total += sum(values)

    def exemplify(self, value: float, labels: Mapping[str, str], unix_seconds: float) -> None:
        """Remember what an observed value belongs to.

        Args:
            labels: At most 128 characters in all, names included, as OpenMetrics wants it: ids of a trace and a run.
            unix_seconds: When it was observed.
        """
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(dict(labels), value, unix_seconds)

    def buckets(self) -> list[tuple[Any, ...]]:
        """Cumulative, as a metric family wants them."""
        bounds = [*(repr(float(bound)) for bound in self.bounds), "+Inf"]
        found: dict[int, Exemplar] = self.exemplars or {}
        cumulative = itertools.accumulate(self.counts)
        return [
            (bound, count, found[place]) if place in found else (bound, count)
            for place, (bound, count) in enumerate(zip(bounds, cumulative, strict=True))
        ]


class Numbers:
    """The numbers of one table: slots without labels are ints, slots with labels dicts from label values to ints.

    Add in place, e.g. `numbers.frames["in"] += 1`; an unknown closed value is a KeyError. Names of open sets must be
    admitted first. Gauges that are read rather than counted are set by functions in `refresh`, which every scrape
    calls first.

    Args:
        prefix: Of every name.
        definitions: The table.
        common: Labels of every series, with their values.
    """

    def __init__(self, prefix: str, definitions: Sequence[Definition], common: Mapping[str, str] | None = None) -> None:
        self.prefix = prefix
        self.definitions = definitions
        self.common = dict(common or {})
        self.refresh: list[Callable[[], None]] = []
        found = {label for metric in definitions for label in metric.labels.values() if isinstance(label, Open)}
        self._known: dict[Open, dict[str, None]] = {label: {} for label in found}
        for metric in definitions:
            known = {label: tuple(names) for label, names in self._known.items()}
            value = {key: metric.zero() for key in metric.series(known)} if metric.labels else metric.zero()
            setattr(self, metric.slot, value)

    def admitted(self, label: Open, name: str) -> str:
        """The value of an open label for `name`. Its first use creates its zero series in every metric."""
        known = self._known[label]
        if name in known:
            return name
        if len(known) >= label.cap:
            self.capped(label)
            if OTHER in known:
                return OTHER
            name = OTHER
        known[name] = None
        for metric in self.definitions:
            if label in metric.labels.values():
                slot = getattr(self, metric.slot)
                every = {one: tuple(names) for one, names in self._known.items()}
                for key in metric.series({**every, label: (name,)}):
                    slot.setdefault(key, metric.zero())
        return name

    def capped(self, label: Open) -> None:
        """A value of `label` was not told apart from others. For tables that show it."""

    def families(self) -> Iterator[Metric]:
        """Everything, as of now."""
        for refresh in self.refresh:
            refresh()
        for metric in self.definitions:
            family = _family(self.prefix, metric, self.common)
            _fill(family, metric, getattr(self, metric.slot), tuple(self.common.values()))
            yield family


class NumbersCollector(Collector):
    """Exports the numbers of one table; those of several owners go into the same families.

    Args:
        numbers: All of the same table and the same common labels.
    """

    def __init__(self, *numbers: Numbers) -> None:
        self._numbers = list(numbers)

    def add(self, numbers: Numbers) -> None:
        """Export these as well."""
        self._numbers.append(numbers)

    def describe(self) -> Iterator[Metric]:
        """Names for the registry, without refreshing anything."""
        first = self._numbers[0]
        return (_family(first.prefix, metric, first.common) for metric in first.definitions)

    def collect(self) -> Iterator[Metric]:
        for families in zip(*(list(numbers.families()) for numbers in self._numbers), strict=True):
            first, *others = families
            for other in others:
                first.samples.extend(other.samples)
            yield first


def registry_of(*collectors: Collector) -> CollectorRegistry:
    """A registry of its own with these collectors."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return registry


_FAMILIES = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


def _family(prefix: str, metric: Definition, common: Iterable[str]) -> Any:
    return _FAMILIES[metric.kind](prefix + metric.name, metric.help, labels=[*common, *metric.labels])


def _fill(family: Any, metric: Definition, slot: Any, common: tuple[str, ...]) -> None:
    for key, value in slot.items() if metric.labels else (((), slot),):
        labels = [*common, key] if isinstance(key, str) else [*common, *key]
        if isinstance(value, Histogram):
            family.add_metric(labels, value.buckets(), value.total)
        else:
            family.add_metric(labels, value)
