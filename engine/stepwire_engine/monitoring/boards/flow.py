"""For who owns a flow: how many runs, how long, how many fail."""

from __future__ import annotations

from stepwire_engine.monitoring.panels import Board, Panel, Query, Row, Variable
from stepwire_engine.monitoring.queries import quantiles, rate, ratio

_IN_FLOW = '{flow=~"$flow"}'

FLOW = Board(
    "stepwire-flow",
    "Stepwire / Flow",
    "One flow, or several: how many runs, how long, how many fail.",
    (
        Row(
            "Runs",
            (
                Panel(
                    "Started",
                    "ops",
                    "Runs accepted.",
                    (Query(rate("stepwire_runs_started_total", "flow", _IN_FLOW), "{{flow}}"),),
                    12,
                ),
                Panel(
                    "Ended",
                    "ops",
                    "By the state they ended in.",
                    (Query(rate("stepwire_runs_finished_total", "flow, state", _IN_FLOW), "{{flow}} {{state}}"),),
                    12,
                ),
                Panel(
                    "Duration",
                    "s",
                    "Over all chosen flows. Dots lead to single runs.",
                    quantiles("stepwire_run_duration_seconds", _IN_FLOW, exemplars=True),
                    12,
                ),
                Panel(
                    "p99 by flow",
                    "s",
                    "The slowest hundredth of each flow.",
                    quantiles("stepwire_run_duration_seconds", _IN_FLOW, by="flow"),
                    12,
                ),
                Panel(
                    "Failure ratio",
                    "percentunit",
                    "Of the runs that ended, how many failed.",
                    (
                        Query(
                            ratio(
                                rate("stepwire_runs_finished_total", labels='{flow=~"$flow", state="failed"}'),
                                rate("stepwire_runs_finished_total", labels=_IN_FLOW),
                            )
                        ),
                    ),
                    12,
                ),
                Panel(
                    "Retries",
                    "ops",
                    "Attempts that failed and are tried again.",
                    (Query(rate("stepwire_step_retries_total", "flow", _IN_FLOW), "{{flow}}"),),
                    12,
                ),
            ),
        ),
        Row(
            "Steps and groups of all flows",
            (
                Panel(
                    "Duration of steps",
                    "s",
                    "From plan to outcome, p99 by kind.",
                    quantiles("stepwire_step_duration_seconds", by="kind"),
                ),
                Panel(
                    "Attempts",
                    "ops",
                    "By outcome.",
                    (Query(rate("stepwire_attempts_total", "outcome"), "{{outcome}}"),),
                ),
                Panel(
                    "Groups",
                    "ops",
                    "That ended, by mode and verdict.",
                    (Query(rate("stepwire_groups_finished_total", "mode, verdict"), "{{mode}} {{verdict}}"),),
                ),
            ),
        ),
    ),
    (Variable("flow", "stepwire_runs_started_total", "flow"),),
)
