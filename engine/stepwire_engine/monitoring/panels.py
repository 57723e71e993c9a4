"""What a Grafana dashboard is made of, as values, and its JSON (classic model, schemaVersion 39).

Only what our four boards need. `tests/monitoring` reads the JSON with Grafana's own models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 39
COLUMNS = 24
"""Grid units of a row."""
HEIGHT = 8
STAT_HEIGHT = 4
INTERVAL = "$__rate_interval"
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel.

    Attributes:
        expr: PromQL; `[$__rate_interval]` in every range.
        legend: With `{{label}}` for labels.
        exemplars: Show the traces and runs of single values.
    """

    expr: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        unit: Of Grafana: "s", "bytes", "Bps", "ops", "percentunit", "short".
        help: What it shows, and what to do when it looks bad.
        width: Of COLUMNS.
        stat: Only the present value, large.
        stacked: Series on top of each other.
        red: From this value on it is bad; None: there is no such value.
    """

    title: str
    unit: str
    help: str
    queries: tuple[Query, ...]
    width: int = 8
    stat: bool = False
    stacked: bool = False
    red: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a board: values of a label."""

    name: str
    metric: str
    label: str


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard.

    Attributes:
        uid: Stable, so that a newer one replaces it.
    """

    uid: str
    title: str
    help: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()

    def expressions(self) -> Iterator[str]:
        """Every expression of every panel."""
        return (query.expr for row in self.rows for panel in row.panels for query in panel.queries)

    def json(self) -> dict[str, Any]:
        """What Grafana imports."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.help,
            "tags": ["stepwire"],
            "timezone": "browser",
            "editable": True,
            "graphTooltip": 1,
            "schemaVersion": SCHEMA_VERSION,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": [_DATASOURCES, *(_variable(one) for one in self.variables)]},
            "annotations": {"list": []},
            "links": [_LINKS],
            "panels": list(_laid_out(self.rows)),
        }


def _laid_out(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    y = number = 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
            "panels": [],
        }
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            number += 1
            high = STAT_HEIGHT if panel.stat else HEIGHT
            yield _panel(panel, number, {"h": high, "w": panel.width, "x": x, "y": y})
            x, height = x + panel.width, max(height, high)
        y += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.help,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "targets": [_target(query, chr(ord("A") + n), panel) for n, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _STAT if panel.stat else _SERIES,
    }


def _target(query: Query, ref: str, panel: Panel) -> dict[str, Any]:
    return {
        "refId": ref,
        "datasource": _DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "exemplar": query.exemplars,
        "instant": panel.stat,
        "range": not panel.stat,
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red is not None:
        steps.append({"color": "red", "value": panel.red})
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "thresholds" if panel.stat else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if not panel.stat:
        stacking = {"group": "A", "mode": "normal" if panel.stacked else "none"}
        defaults["custom"] = {"fillOpacity": 20 if panel.stacked else 0, "stacking": stacking, "showPoints": "never"}
    return defaults


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.name.capitalize(),
        "datasource": _DATASOURCE,
        "query": {"query": f"label_values({variable.metric}, {variable.label})", "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "hide": 0,
        "skipUrlSync": False,
    }


_STAT = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value"}
_SERIES = {
    "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
    "tooltip": {"mode": "multi", "sort": "desc"},
}
_DATASOURCES: dict[str, Any] = {
    "type": "datasource",
    "name": "datasource",
    "label": "Prometheus",
    "query": "prometheus",
    "refresh": 1,
    "multi": False,
    "includeAll": False,
    "hide": 0,
    "skipUrlSync": False,
}
_LINKS: dict[str, Any] = {
    "type": "dashboards",
    "title": "Stepwire",
    "icon": "external link",
    "tooltip": "The other boards of Stepwire",
    "tags": ["stepwire"],
    "asDropdown": True,
    "targetBlank": False,
    "includeVars": True,
    "keepTime": True,
}
