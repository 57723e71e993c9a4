"""For everybody: is work being done, does it succeed, and what does it wait for?"""

from __future__ import annotations

from stepwire_engine.monitoring.panels import Board, Panel, Query, Row
from stepwire_engine.monitoring.queries import quantiles, rate, ratio

_FAILED = '{state="failed"}'

OVERVIEW = Board(
    "stepwire-overview",
    "Stepwire / Overview",
    "Is work being done, does it succeed, and what does it wait for?",
    (
        Row(
            "Now",
            (
                Panel(
                    "Runs in progress",
                    "short",
                    "Runs in memory that have not ended.",
                    (Query('sum(stepwire_runs{state=~"pending|running"})'),),
                    4,
                    stat=True,
                ),
                Panel(
                    "Dormant runs",
                    "short",
                    "Runs that wait on disk for time, an event or another run.",
                    (Query('sum(stepwire_runs{state="waiting"})'),),
                    4,
                    stat=True,
                ),
                Panel(
                    "Paused runs",
                    "short",
                    "They need somebody: `stepwire runs list --state paused`.",
                    (Query('sum(stepwire_runs{state="paused"})'),),
                    4,
                    stat=True,
                    red=1,
                ),
                Panel(
                    "Failure ratio",
                    "percentunit",
                    "Of the runs that ended, how many failed.",
                    (
                        Query(
                            ratio(
                                rate("stepwire_runs_finished_total", labels=_FAILED),
                                rate("stepwire_runs_finished_total"),
                            )
                        ),
                    ),
                    4,
                    stat=True,
                    red=0.05,
                ),
                Panel("Hosts", "short", "Hosts connected.", (Query("sum(stepwire_sessions_connected)"),), 4, stat=True),
                Panel(
                    "Free slots",
                    "short",
                    "Attempts that could begin at once.",
                    (Query('sum(stepwire_session_slots{state="free"})'),),
                    4,
                    stat=True,
                ),
            ),
        ),
        Row(
            "Runs",
            (
                Panel(
                    "Started and ended",
                    "ops",
                    "If more start than end for long, hosts or slots are missing.",
                    (
                        Query(rate("stepwire_runs_started_total"), "started"),
                        Query(rate("stepwire_runs_finished_total", "state"), "{{state}}"),
                    ),
                ),
                Panel(
                    "Duration",
                    "s",
                    "From start to end. Dots lead to single runs.",
                    quantiles("stepwire_run_duration_seconds", exemplars=True),
                ),
                Panel(
                    "Waiting for",
                    "short",
                    "Runs in memory by the first reason they wait for; `stepwire runs why RUN` explains one.",
                    (Query("sum by (reason) (stepwire_waiting_runs)", "{{reason}}"),),
                    stacked=True,
                ),
            ),
        ),
        Row(
            "Steps",
            (
                Panel(
                    "Ended",
                    "ops",
                    "Steps that ended, by kind.",
                    (Query(rate("stepwire_steps_finished_total", "kind"), "{{kind}}"),),
                    stacked=True,
                ),
                Panel(
                    "From due to started",
                    "s",
                    "It grows when slots are missing.",
                    quantiles("stepwire_schedule_to_start_seconds"),
                ),
                Panel(
                    "Retries and losses",
                    "ops",
                    "Attempts tried again, and attempts whose host was lost.",
                    (
                        Query(rate("stepwire_step_retries_total"), "retries"),
                        Query(rate("stepwire_attempts_lost_total", "cause"), "lost: {{cause}}"),
                        Query(rate("stepwire_poison_total", "what"), "poison {{what}}"),
                    ),
                ),
            ),
        ),
    ),
)
