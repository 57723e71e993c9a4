"""When a host counts as lost, to the moment; hosts that hear nothing; and steps that kill whoever executes them."""

from __future__ import annotations

import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import HostFrame, Report
from stepwire.protocol.plan import RetryPolicy
from stepwire_engine.core.config import CoreConfig
from tests.session.desk import CONFIG, Desk, Host, running, task

SILENT = CONFIG.silence_timeout
GRACE = CONFIG.reconnect_grace


def lost(desk: Desk, host: Host) -> bool:
    return host.session.welcome is None or host.session.welcome.session_id not in desk.core.sessions


def tick_to(desk: Desk, until: float) -> None:
    """Ticks when the core asks for them and at no other time, while nobody says anything."""
    while (due := desk.core.next_due()) is not None and due <= until:
        desk.mono = max(desk.mono, due)
        desk.core.tick(desk.now)
        desk._commits()
        desk._loads()
        desk._to_hosts()
    desk.mono = until


def test_a_silent_host_is_lost_on_time_and_not_at_the_tick_after() -> None:
    desk, host = running(task("t"))
    began = desk.mono
    tick_to(desk, began + SILENT + GRACE - 0.001)
    assert desk.core.sessions
    tick_to(desk, began + SILENT + GRACE)
    assert not desk.core.sessions
    assert desk.core.counters.attempts_lost == {"silence": 1}
    assert host.faults[-1].code is ErrorCode.STALE and "nothing heard for 12 s" in host.faults[-1].message


def test_the_defaults_have_the_work_elsewhere_within_15_seconds() -> None:
    config = CoreConfig()
    assert config.silence_timeout + config.reconnect_grace < 15
    assert config.silence_timeout > 2 * config.heartbeat_interval, "two late reports end no session"


def test_a_stream_that_ends_after_silence_gives_no_second_grace() -> None:
    desk, host = running(task("t"))
    began = desk.mono
    tick_to(desk, began + SILENT + GRACE - 0.1)
    host.cut()
    tick_to(desk, began + SILENT + GRACE)
    assert not desk.core.sessions


def test_a_stream_that_ends_has_the_whole_grace() -> None:
    desk, host = running(task("t"))
    tick_to(desk, desk.mono + 5)
    ended = desk.mono
    host.cut()
    tick_to(desk, ended + GRACE - 0.001)
    assert desk.core.sessions
    tick_to(desk, ended + GRACE)
    assert not desk.core.sessions


# ---- hosts that report and process nothing


def report_late(desk: Desk, host: Host, seconds: float, *, processed: int) -> None:
    """The host reports on time, always that it is as far as `processed`."""
    end = desk.mono + seconds
    while desk.mono < end and desk.core.sessions:
        tick_to(desk, min(end, desk.mono + CONFIG.heartbeat_interval))
        if host.engine is not None and host.engine.id in desk.core.sessions:
            host.raw(HostFrame(report=Report(10, last_engine_frame=processed)))


def test_a_host_that_reports_but_processes_nothing_is_lost() -> None:
    desk, host = running(task("t"))
    assert host.engine is not None
    seen = len(host.frames)
    host.engine.written = seen + 1
    began = desk.mono
    report_late(desk, host, SILENT + GRACE, processed=seen)
    assert not desk.core.sessions
    assert desk.mono - began <= SILENT + GRACE, "as soon as one that says nothing"
    assert "processed nothing of what was sent" in host.faults[-1].message


def test_a_host_that_is_behind_but_gets_on_is_not_lost() -> None:
    desk, host = running()
    assert host.engine is not None
    for processed in range(1, 12):
        host.engine.written = processed + 5
        report_late(desk, host, CONFIG.heartbeat_interval, processed=processed)
    assert desk.core.sessions


def test_a_host_that_keeps_up_or_whose_transport_does_not_tell_is_not_lost() -> None:
    desk, host = running(task("t"))
    report_late(desk, host, 3 * (SILENT + GRACE), processed=0)
    assert desk.core.sessions, "nothing is known to have been written"
    assert host.engine is not None
    host.engine.written = 7
    report_late(desk, host, 3 * (SILENT + GRACE), processed=7)
    assert desk.core.sessions


# ---- congestion


def test_a_congested_host_gets_nothing_new_and_others_do() -> None:
    desk, host = running()
    other = desk.host("other", flows=())
    assert host.engine is not None
    desk.core.congestion(host.engine, host.stream, True, desk.now)
    host.plan(task("one"), task("two"))
    desk.settle()
    assert [e.path for e in other.executes()] == ["one", "two"]
    desk.start("r2")
    desk.settle()
    assert not host.take(), "no body either"
    desk.core.congestion(host.engine, host.stream, False, desk.now)
    desk.settle()
    assert [section.run_id for section in host.take() if section.advance is not None] == ["r2"]


def test_congestion_of_a_replaced_stream_is_nobodys() -> None:
    desk, host = running()
    assert host.engine is not None
    old = host.stream
    host.cut(told=False)
    host.connect()
    desk.settle()
    assert host.engine is not None
    desk.core.congestion(host.engine, old, True, desk.now)
    assert host.engine.free_slots > 0


# ---- poison


def dies(desk: Desk, host: Host) -> None:
    host.cut()
    desk.pass_time(GRACE + 1)


def test_a_poison_step_fails_after_the_bound_and_what_stood_beside_it_does_not() -> None:
    """One host after the other executes what there is, until `poison` kills it. `slow` is always beside it."""
    desk, host = running(task("poison"), task("slow"), task("slower"))
    hosts = [host]
    while hosts[-1].holds("poison"):
        dies(desk, hosts[-1])
        hosts.append(desk.host(f"h{len(hosts)}"))
    for path in ("slow", "slower"):
        hosts[-1].ok(path)
        desk.settle()
    ended = {entry.path: entry for entry in desk.rows.entries() if type(entry).__name__ == "AttemptEnded"}
    failure = ended["poison"].failure
    assert failure is not None and failure.code is ErrorCode.POISON_STEP
    assert failure.message == (
        "step 'poison' lost its host 3 times in a row, on h (1), h1 (1), h2 (1); "
        "it probably kills the process that runs it"
    )
    steps = desk.core.runs["r"].steps
    assert max(steps[path].losses for path in ("slow", "slower")) == CONFIG.suspect_after
    assert all(entry.failure is None for path, entry in ended.items() if path != "poison")


def test_suspects_are_executed_one_at_a_time_on_a_host() -> None:
    desk, _ = running(*[task(f"t{n}") for n in range(4)])
    for _ in range(CONFIG.suspect_after):
        dies(desk, desk.hosts[-1])
        desk.host("again")
    last = desk.hosts[-1]
    held = [path for path in ("t0", "t1", "t2", "t3") if last.holds(path)]
    assert held == ["t0"]
    second = desk.host("second", flows=())
    assert second.holds("t1") and not second.holds("t2")
    last.ok("t0")
    desk.settle()
    assert last.holds("t2")


def test_an_attempt_that_ended_begins_the_count_again() -> None:
    desk, _ = running(task("t", retry=RetryPolicy(100, delay=0.0, jitter=0.0)))
    for number in range(2 * CONFIG.attempts_lost_max):
        if number % 2:
            desk.hosts[-1].failed("t", attempt=desk.core.runs["r"].steps["t"].attempt)
            desk.pass_time(1)
        else:
            dies(desk, desk.hosts[-1])
            desk.host("again")
    step = desk.core.runs["r"].steps["t"]
    assert (step.losses, step.lost_on, step.outcome) == (CONFIG.attempts_lost_max, (), None)


@pytest.mark.parametrize("number", range(1, CONFIG.attempts_lost_max + 1))
def test_the_count_in_a_row_outlives_an_engine(number: int) -> None:
    desk, _ = running(task("t"))
    for _ in range(number):
        dies(desk, desk.hosts[-1])
        desk.restart()
        desk.pass_time(CONFIG.adoption_grace + 1)
        desk.host("again")
    entries = [e for e in desk.rows.entries() if type(e).__name__ == "AttemptEnded"]
    assert len(entries) == (number == CONFIG.attempts_lost_max)
