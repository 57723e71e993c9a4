"""A host whose loop is blocked says so while it is blocked: Reports are made by the session's own threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

import stepwire
from stepwire._serving import _LAG_INTERVAL, RunningHost
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.protocol.frames import EngineFrame, Hello, Report, Welcome

BLOCKED_SECONDS = 0.3


def connected(port: SessionPort) -> SessionPort:
    """Welcomed by an engine that wants a Report as often as it can get one."""
    port.connect()
    assert port.take_frame() is not None
    port.receive(EngineFrame(welcome=Welcome("s", heartbeat_interval=1e-6)))
    return port


def report_of(port: SessionPort) -> Report:
    frame = port.take_frame()
    assert frame is not None and frame.report is not None
    return frame.report


def test_a_report_carries_the_longest_delay_since_the_one_before() -> None:
    now = [0.0]
    port = connected(SessionPort(HostSession(Hello("h", "i", flows=("f",))), lambda: now[0]))
    session = port.session
    for late, due in ((0.0, 1.0), (1.2, 2.2), (2.25, 3.2)):
        now[0] = late
        session.loop_ticked(late, due)
    assert report_of(port).loop_lag == pytest.approx(0.2), "not the last delay"
    now[0] = 3.1
    assert report_of(port).loop_lag == 0.0, "the next tick is not due yet"
    now[0] = 8.2
    assert report_of(port).loop_lag == pytest.approx(5.0), "it is overdue, and still is"
    session.loop_ticked(9.2, 10.2)
    now[0] = 9.3
    assert report_of(port).loop_lag == pytest.approx(6.0), "all of it, once it is over"
    now[0] = 9.4
    assert report_of(port).loop_lag == 0.0


def test_a_blocked_loop_is_told_by_a_report_that_leaves_meanwhile() -> None:
    async def main() -> None:
        host = stepwire.Host("blocked")
        host.flow(name="f")(lambda ctx: None)
        running = RunningHost(host, "127.0.0.1:1")
        port = connected(running.port)
        first = port.clock()
        running._watch_lag(first)
        ticked = port.clock()
        await asyncio.sleep(0)
        told: list[tuple[float, float, float]] = []

        def session_thread() -> None:
            while not told or told[-1][1] < BLOCKED_SECONDS:
                asked = port.clock()
                told.append((asked, report_of(port).loop_lag, port.clock()))

        thread = threading.Thread(target=session_thread)
        thread.start()
        thread.join(10)  # This blocks the loop.
        assert told[-1][1] >= BLOCKED_SECONDS
        for asked, lag, answered in told:
            # The tick is due an interval after the one before, which was at some moment between these two.
            assert asked - (ticked + _LAG_INTERVAL) <= lag <= max(0.0, answered - (first + _LAG_INTERVAL))
        running.runtime.close()
        assert running._lag is not None
        running._lag.cancel()

    asyncio.run(main())
