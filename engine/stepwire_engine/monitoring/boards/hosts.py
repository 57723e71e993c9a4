"""For who owns a service: its hosts as the engine sees them, and as they see themselves."""

from __future__ import annotations

from stepwire_engine.monitoring.panels import Board, Panel, Query, Row, Variable
from stepwire_engine.monitoring.queries import quantiles, rate

_OF_SERVICE = '{service=~"$service"}'

HOSTS = Board(
    "stepwire-hosts",
    "Stepwire / Hosts",
    "Services that execute flows and steps: as the engine sees them, and as they see themselves.",
    (
        Row(
            "As the engine sees them",
            (
                Panel(
                    "Connected",
                    "short",
                    "Hosts by service.",
                    (Query(f"sum by (service) (stepwire_sessions_connected{_OF_SERVICE})", "{{service}}"),),
                ),
                Panel(
                    "Slots",
                    "short",
                    "Busy ones at the top of free ones: no free ones, and work waits.",
                    (Query(f"sum by (state) (stepwire_session_slots{_OF_SERVICE})", "{{state}}"),),
                    stacked=True,
                ),
                Panel(
                    "Lost, stale, refused",
                    "ops",
                    "Hosts that vanish, results that came too late, Executes refused.",
                    (
                        Query(rate("stepwire_attempts_lost_total", "cause"), "lost: {{cause}}"),
                        Query(rate("stepwire_stale_results_total"), "stale results"),
                        Query(rate("stepwire_rejects_total"), "refused"),
                    ),
                ),
                Panel(
                    "Resumed and adopted",
                    "ops",
                    "Streams that came back, with what their hosts still held.",
                    (
                        Query(rate("stepwire_sessions_resumed_total"), "sessions resumed"),
                        Query(rate("stepwire_attempts_adopted_total"), "attempts adopted"),
                        Query(rate("stepwire_bodies_adopted_total"), "bodies adopted"),
                    ),
                ),
                Panel(
                    "Cancels",
                    "ops",
                    "By reason.",
                    (Query(rate("stepwire_cancels_sent_total", "reason"), "{{reason}}"),),
                ),
                Panel(
                    "Bodies",
                    "ops",
                    "Entries beyond one per run are replays: memory of hosts may be too small.",
                    (
                        Query(rate("stepwire_body_entries_total"), "entered"),
                        Query(rate("stepwire_live_body_misses_total"), "replayed"),
                        Query(rate("stepwire_body_evictions_total", "by"), "given up by {{by}}"),
                    ),
                ),
            ),
        ),
        Row(
            "As they see themselves",
            (
                Panel(
                    "Attempts",
                    "ops",
                    "By outcome.",
                    (Query(rate("stepwire_host_attempts_total", "outcome", _OF_SERVICE), "{{outcome}}"),),
                ),
                Panel(
                    "Duration of attempts",
                    "s",
                    "User code only.",
                    quantiles("stepwire_host_attempt_seconds", _OF_SERVICE),
                ),
                Panel(
                    "Loop lag",
                    "s",
                    "p99; over a second, something blocks the event loop of a service.",
                    quantiles("stepwire_host_loop_lag_seconds", _OF_SERVICE, by="service"),
                ),
                Panel(
                    "Slots",
                    "short",
                    "Of all processes of a service.",
                    (Query(f"sum by (service, state) (stepwire_host_slots{_OF_SERVICE})", "{{service}} {{state}}"),),
                ),
                Panel(
                    "Live bodies",
                    "short",
                    "Runs suspended in memory.",
                    (Query(f"sum by (service) (stepwire_host_bodies_live{_OF_SERVICE})", "{{service}}"),),
                ),
                Panel(
                    "Reconnects, hooks, abandoned",
                    "ops",
                    "None of these should be steady.",
                    (
                        Query(rate("stepwire_host_reconnects_total", labels=_OF_SERVICE), "reconnects"),
                        Query(rate("stepwire_host_hook_failures_total", labels=_OF_SERVICE), "failing hooks"),
                        Query(rate("stepwire_host_attempts_abandoned_total", labels=_OF_SERVICE), "abandoned"),
                    ),
                ),
            ),
        ),
    ),
    (Variable("service", "stepwire_sessions_connected", "service"),),
)
