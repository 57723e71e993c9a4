"""Log lines on their way to the engine: bounded, sent with what is sent anyway, and never twice."""

from __future__ import annotations

import threading

from stepwire._transport.log_queue import (
    BYTES_MAX,
    FRAME_BYTES_MAX,
    LINES_MAX,
    SEND_WITHIN_SECONDS,
    LogQueue,
    Waiting,
    clear_all,
)
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.protocol.frames import EngineFrame, Hello, Result, Welcome
from stepwire.protocol.plan import Fence

# ---- the queue


def waiting(run_id: str = "run", at: float = 0.0, size: int = 100) -> Waiting:
    return Waiting(run_id, "a", 1, at, 20, "shop", "text", size)


def queue() -> tuple[LogQueue, dict[str, int]]:
    counts = {"shipped": 0, "dropped": 0}
    return LogQueue(counts), counts


def test_the_queue_is_bounded_in_lines_and_says_what_it_dropped() -> None:
    lines, counts = queue()
    for _ in range(LINES_MAX + 2):
        lines.add(waiting("mine"))
    lines.add(waiting("other"))
    taken = lines.take(1.0, everything=True)
    assert [(logs.run_id, len(logs.lines), logs.dropped) for logs in taken] == [("mine", LINES_MAX, 2), ("other", 0, 1)]
    assert counts == {"shipped": LINES_MAX, "dropped": 3}
    assert lines.take(2.0) == [] and lines.due_at() is None


def test_the_queue_is_bounded_in_bytes() -> None:
    lines, counts = queue()
    for _ in range(3):
        lines.add(waiting(size=BYTES_MAX // 2))
    assert len(lines) == 2 and counts["dropped"] == 1


def test_a_frame_takes_64_kib_and_the_rest_is_due_at_once() -> None:
    lines, _ = queue()
    for at in range(3):
        lines.add(waiting(at=float(at), size=FRAME_BYTES_MAX // 2))
    (first,) = lines.take(3.0)
    assert [line.age for line in first.lines] == [3.0, 2.0]
    assert lines.due_at() == 2.0 + SEND_WITHIN_SECONDS


def test_code_that_logs_while_it_holds_the_queue_does_not_wait_for_itself() -> None:
    """A finalizer may run, and log, anywhere."""
    lines, _ = queue()
    with lines._lock:
        lines.add(waiting())
    assert len(lines) == 1


def test_a_forked_child_neither_waits_for_a_thread_of_its_parent_nor_sends_its_lines() -> None:
    """A step may fork, and log in the child, while the session's thread holds the queue."""
    lines, _ = queue()
    lines.add(waiting())
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lines._lock:
            held.set()
            over.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    clear_all()  # as after a fork, where that thread is no more
    lines.add(waiting("child"))
    over.set()
    thread.join()
    assert [logs.run_id for logs in lines.take(1.0)] == ["child"]


# ---- the frames


def greeted() -> tuple[SessionPort, LogQueue, list[float]]:
    """A session that the engine has welcomed, at second 0; the list holds the time."""
    now = [0.0]
    lines, _ = queue()
    port = SessionPort(HostSession(Hello("shop", "i")), lambda: now[0], lines)
    port.connect()
    hello = port.take_frame()
    assert hello is not None and hello.hello is not None and not hello.logs
    port.receive(EngineFrame(number=1, welcome=Welcome("s")))
    return port, lines, now


def sent(port: SessionPort) -> list[str]:
    """Runs whose lines are in the next frame; an empty list: it has none, or there is none."""
    frame = port.take_frame()
    return [] if frame is None else [logs.run_id for logs in frame.logs]


def test_lines_wait_for_the_welcome() -> None:
    lines, _ = queue()
    lines.add(waiting())
    port = SessionPort(HostSession(Hello("shop", "i")), lambda: 99.0, lines)
    assert port.take_frame() is None, "there is no stream"
    port.connect()
    assert sent(port) == [], "the first frame is Hello"
    assert sent(port) == []
    port.receive(EngineFrame(number=1, welcome=Welcome("s")))
    assert sent(port) == ["run"]


def test_lines_go_along_with_what_is_sent_anyway() -> None:
    port, lines, now = greeted()
    lines.add(waiting())
    now[0] = 0.1
    port.submit_results([("r", Result("a", 1, Fence(1, 1)))])
    frame = port.take_frame()
    assert frame is not None and frame.position == 1
    assert frame.runs and [batch.lines[0].age for batch in frame.logs] == [0.1]


def test_lines_that_no_frame_takes_along_are_sent_after_half_a_second() -> None:
    port, lines, now = greeted()
    lines.add(waiting())
    now[0] = SEND_WITHIN_SECONDS - 0.01
    assert sent(port) == [] and port.next_due() == SEND_WITHIN_SECONDS
    now[0] = SEND_WITHIN_SECONDS
    frame = port.take_frame()
    assert frame is not None and frame.position == 0 and frame.logs and not frame.runs
    assert port.session.unacked == 0, "nothing is kept to be sent again"


def test_a_resume_sends_results_again_and_lines_not() -> None:
    port, lines, _ = greeted()
    lines.add(waiting())
    port.submit_results([("r", Result("a", 1, Fence(1, 1)))])
    assert sent(port) == ["run"]
    port.disconnect()
    port.connect()
    assert sent(port) == []
    port.receive(EngineFrame(number=1, welcome=Welcome("s")))
    again = port.take_frame()
    assert again is not None and again.position == 1 and not again.logs


def test_the_goodbye_takes_everything_along() -> None:
    port, lines, _ = greeted()
    for _ in range(4):
        lines.add(waiting(size=FRAME_BYTES_MAX // 2))
    port.session.say_goodbye("stops")
    frame = port.take_frame()
    assert frame is not None and frame.goodbye is not None and len(frame.logs[0].lines) == 4
