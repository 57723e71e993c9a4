"""The numbers the pure core needs; `stepwire_engine.config` fills them from flags, environment and file."""

from __future__ import annotations

import msgspec

from stepwire.protocol import limits
from stepwire.protocol.plan import DEFAULT_RETRY, RetryPolicy


class CoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and times of the core. Times in seconds, sizes in bytes.

    Attributes:
        payload_bytes_max: Longest payload accepted, up to 64 MiB.
        steps_per_run_max: Steps of one run.
        branches_per_group_max: Branches of one group.
        group_depth_max: Groups nested in groups.
        attempts_lost_max: Hosts a step or body may lose in a row before it counts as poison.
        suspect_after: From so many on a step is a suspect. A host executes one of those at a time, so that a step that
            only stood beside the one that kills is not taken for it.
        default_retry: Policy of steps that carry none.
        heartbeat_interval: How often hosts report.
        reconnect_grace: From the end of a stream, or from silence, until the session is lost.
        silence_timeout: Without a frame for this long, or with reports that show no progress, a session counts as
            silent. With the grace it is below 15 s, so that the work is elsewhere within that.
        adoption_grace: After a restart, how long hosts may take to resume.
        timeout_grace: How long after an attempt's timeout the engine tells the host to stop it, and how long the
            branches of a late group may take to answer its last wave.
        stop_grace: How long the attempts of a stopping run may take to stop before its compensation begins.
        live_idle: How long a run that only waits stays in memory; timers due sooner keep it there.
        ahead_pace: A host whose attempts took no longer lately gets registered steps ahead of free slots, in seconds.
        loop_lag_max: A host whose last report says that its loop is later than this gets nothing new.
        reconcile_interval: From the beginning of one look at every owner to the next.
        reconcile_portion: Runs, and steps of runs, that are looked at in one tick.
        runs_in_memory_max: While so many runs are in memory, events start none and no dormant run is woken by time.
        invoke_depth_max: Runs that invoke runs, above one run.
        event_window: How long ids of events are compared, and delivered events kept for look-back, in seconds.
        log_lines_per_run_max: Log lines of a run that are kept, the newest; 0: none.
        log_lines_waiting_max: Log lines that wait for their commit; more are dropped.
        tick_interval: Longest pause between two ticks while there are sessions.
        stall_forgiven: A tick later than this is a stall of the engine; it expires no lease.
    """

    payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX
    steps_per_run_max: int = limits.STEPS_PER_RUN_MAX
    branches_per_group_max: int = limits.BRANCHES_PER_GROUP_MAX
    group_depth_max: int = limits.GROUP_DEPTH_MAX
    attempts_lost_max: int = 20
    suspect_after: int = 2
    default_retry: RetryPolicy = DEFAULT_RETRY
    heartbeat_interval: float = 4.0
    reconnect_grace: float = 3.0
    silence_timeout: float = 11.5
    adoption_grace: float = 10.0
    timeout_grace: float = 2.0
    stop_grace: float = 10.0
    live_idle: float = 10.0
    ahead_pace: float = 0.05
    loop_lag_max: float = 1.0
    reconcile_interval: float = 10.0
    reconcile_portion: int = 500
    runs_in_memory_max: int = 100_000
    invoke_depth_max: int = 100
    event_window: float = 24 * 3600.0
    log_lines_per_run_max: int = 1_000
    log_lines_waiting_max: int = 5_000
    tick_interval: float = 0.5
    stall_forgiven: float = 2.0
