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
        default_retry: Policy of steps that carry none.
        heartbeat_interval: How often hosts report.
        reconnect_grace: From the end of a stream, or from silence, until the session is lost.
        silence_timeout: Without a frame for this long a session counts as silent.
        adoption_grace: After a restart, how long hosts may take to resume.
        timeout_grace: How long after an attempt's timeout the engine tells the host to stop it, and how long the
            branches of a late group may take to answer its last wave.
        stop_grace: How long the attempts of a stopping run may take to stop before its compensation begins.
        live_idle: How long a run that only waits stays in memory; timers due sooner keep it there.
        runs_in_memory_max: While so many runs are in memory, events start none and no dormant run is woken by time.
        invoke_depth_max: Runs that invoke runs, above one run.
        event_window: How long ids of events are compared, and delivered events kept for look-back, in seconds.
        tick_interval: Longest pause between two ticks while there are sessions.
        stall_forgiven: A tick later than this is a stall of the engine; it expires no lease.
    """

    payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX
    steps_per_run_max: int = limits.STEPS_PER_RUN_MAX
    branches_per_group_max: int = limits.BRANCHES_PER_GROUP_MAX
    group_depth_max: int = limits.GROUP_DEPTH_MAX
    attempts_lost_max: int = 20
    default_retry: RetryPolicy = DEFAULT_RETRY
    heartbeat_interval: float = 4.0
    reconnect_grace: float = 3.0
    silence_timeout: float = 12.0
    adoption_grace: float = 10.0
    timeout_grace: float = 2.0
    stop_grace: float = 10.0
    live_idle: float = 10.0
    runs_in_memory_max: int = 100_000
    invoke_depth_max: int = 100
    event_window: float = 24 * 3600.0
    tick_interval: float = 0.5
    stall_forgiven: float = 2.0
