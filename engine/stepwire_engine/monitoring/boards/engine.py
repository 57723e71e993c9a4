"""For who runs the engine: disk, loop, timers, streams."""

from __future__ import annotations

from stepwire_engine.monitoring.panels import INTERVAL, Board, Panel, Query, Row
from stepwire_engine.monitoring.queries import quantiles, rate, ratio

ENGINE = Board(
    "stepwire-engine",
    "Stepwire / Engine internals",
    "Is the engine itself healthy: disk, loop, timers, streams?",
    (
        Row(
            "Disk",
            (
                Panel(
                    "Commits",
                    "s",
                    "Duration of a commit; everything waits for it.",
                    quantiles("stepwire_commit_seconds"),
                ),
                Panel(
                    "Units per commit",
                    "short",
                    "How much shares one commit: it grows with load, which is good.",
                    quantiles("stepwire_commit_units"),
                ),
                Panel("Written", "Bps", "Journal rows and payloads.", (Query(rate("stepwire_commit_bytes_total")),)),
                Panel("Database", "bytes", "With its write-ahead log.", (Query("sum(stepwire_storage_bytes)"),)),
            ),
        ),
        Row(
            "Time",
            (
                Panel("Loop lag", "s", "How late the engine's loop woke up.", quantiles("stepwire_loop_lag_seconds")),
                Panel(
                    "Timer lag",
                    "s",
                    "How late sleeps, retries and timeouts fired.",
                    quantiles("stepwire_timer_lag_seconds"),
                ),
                Panel(
                    "CPU",
                    "percentunit",
                    "Of one core; the engine uses one.",
                    (Query(f'sum(rate(process_cpu_seconds_total{{job="stepwire-engine"}}[{INTERVAL}]))'),),
                ),
                Panel(
                    "Memory",
                    "bytes",
                    "Resident.",
                    (Query('sum(process_resident_memory_bytes{job="stepwire-engine"})'),),
                ),
            ),
        ),
        Row(
            "Traffic",
            (
                Panel(
                    "Frames",
                    "ops",
                    "Messages exchanged with hosts; each carries many steps under load.",
                    (Query(rate("stepwire_frames_total", "direction"), "{{direction}}"),),
                ),
                Panel(
                    "Bytes",
                    "Bps",
                    "Of those frames.",
                    (Query(rate("stepwire_frame_bytes_total", "direction"), "{{direction}}"),),
                ),
                Panel(
                    "Advances, Executes, starts",
                    "ops",
                    "What hosts are told, and what they begin by themselves.",
                    (
                        Query(rate("stepwire_advances_total"), "Advances"),
                        Query(rate("stepwire_executes_total"), "Executes"),
                        Query(rate("stepwire_host_starts_total"), "started by hosts"),
                    ),
                ),
                Panel(
                    "Live bodies found",
                    "percentunit",
                    "Advances that needed no replay.",
                    (
                        Query(
                            ratio(
                                rate("stepwire_live_body_hits_total"),
                                f"{rate('stepwire_live_body_hits_total')} + {rate('stepwire_live_body_misses_total')}",
                            )
                        ),
                    ),
                ),
                Panel(
                    "Calls of clients",
                    "ops",
                    "By method and code.",
                    (Query(f"{rate('stepwire_rpcs_total', 'method, code')} > 0", "{{method}} {{code}}"),),
                ),
                Panel(
                    "Events",
                    "ops",
                    "Sent to the engine.",
                    (Query(rate("stepwire_events_received_total", "outcome"), "{{outcome}}"),),
                ),
                Panel(
                    "Repeated and put right",
                    "ops",
                    "Repeats after reconnects are normal; anything put right is a defect, please report it.",
                    (
                        Query(rate("stepwire_repeated_plans_total"), "plans again"),
                        Query(rate("stepwire_repeated_results_total"), "results again"),
                        Query(rate("stepwire_reconciled_total"), "put right"),
                    ),
                ),
                Panel("Width of groups", "short", "Branches.", quantiles("stepwire_group_width")),
            ),
        ),
    ),
)
