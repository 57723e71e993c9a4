"""Points of the protocol at which a host process kills itself with SIGKILL, the first time it comes there.

E2E_DIE_AT names the point, or `reader`: then only the thread that reads the stream ends. Armed in host processes only;
it wraps private functions of the SDK, as `observed` does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

from stepwire._transport import grpc_link
from stepwire._transport.session import HostSession
from stepwire.protocol.frames import Advance, EngineSection, Execute, HostFrame, HostSection
from tests.e2e.ledger import Pen

DIE_ENV = "E2E_DIE_AT"
READER = "reader"


def die(point: str) -> None:
    Pen.from_environment().write(f"died:{point}", "-", "-", 0)
    os.kill(os.getpid(), signal.SIGKILL)


def on_execute(point: str) -> None:
    execute = HostSession._execute

    def dying(self: HostSession, run_id: str, given: Execute, now: float) -> bool:
        taken = execute(self, run_id, given, now)
        if taken:
            die(point)
        return taken

    HostSession._execute = dying  # type: ignore[method-assign]


def on_submit_plans(point: str) -> None:
    HostSession.submit_plans = lambda *_: die(point)  # type: ignore[assignment,method-assign,misc]


def after_sending(point: str, said: Callable[[HostFrame], bool]) -> None:
    """Once such a frame was handed to gRPC and the writer comes for more."""
    take = HostSession.take_frame
    sent: list[HostFrame] = []

    def dying(self: HostSession, now: float) -> HostFrame | None:
        if sent:
            die(point)
        frame = take(self, now)
        if frame is not None and said(frame):
            sent.append(frame)
        return frame

    HostSession.take_frame = dying  # type: ignore[method-assign]


def on_ack(point: str) -> None:
    forget = HostSession._forget_section

    def dying(self: HostSession, section: HostSection) -> None:
        if section.results:
            die(point)
        forget(self, section)

    HostSession._forget_section = dying  # type: ignore[method-assign]


def in_a_frame(point: str) -> None:
    """After the first piece of a frame that has several."""
    encode = grpc_link.encode_host_frame

    def dying(frame: HostFrame, *, alike: bool) -> Iterator[bytes]:
        pieces = list(encode(frame, alike=alike))
        yield pieces[0]
        if len(pieces) > 1:
            die(point)
        yield from pieces[1:]

    grpc_link.encode_host_frame = dying  # type: ignore[assignment]


def in_replay(point: str) -> None:
    """User code of a body is entered that has a history."""
    advance, write = HostSession._advance, Pen.write
    replayed: set[str] = set()

    def noting(self: HostSession, run_id: str, given: Advance) -> bool:
        if given.start is not None and given.entries:
            replayed.add(run_id)
        return advance(self, run_id, given)

    def dying(self: Pen, event: str, run_id: str, path: str, attempt: int) -> None:
        write(self, event, run_id, path, attempt)
        if event == "body" and run_id in replayed:
            die(point)

    HostSession._advance = noting  # type: ignore[method-assign]
    Pen.write = dying  # type: ignore[method-assign]


def in_a_step(point: str, wanted: Callable[[str], bool]) -> None:
    write = Pen.write

    def dying(self: Pen, event: str, run_id: str, path: str, attempt: int) -> None:
        write(self, event, run_id, path, attempt)
        if event == "before" and wanted(path):
            die(point)

    Pen.write = dying  # type: ignore[method-assign]


POINTS: dict[str, Callable[[str], None]] = {
    "execute-received": on_execute,
    "before-plan": on_submit_plans,
    "plan-sent": lambda point: after_sending(point, lambda frame: any(s.plans for s in frame.runs)),
    "mid-step": lambda point: in_a_step(point, lambda path: "#undo" not in path),
    "mid-frame": in_a_frame,
    "result-sent": lambda point: after_sending(point, lambda frame: any(s.results for s in frame.runs)),
    "result-acked": on_ack,
    "in-replay": in_replay,
    "in-undo": lambda point: in_a_step(point, lambda path: "#undo" in path),
}


def lose_reader() -> None:
    """The thread that reads the stream ends at the first Advance, as no error of ours should let it."""
    section = HostSession._section

    def ending(self: HostSession, given: EngineSection, now: float) -> EngineSection | None:
        if given.advance is not None:
            raise SystemExit
        return section(self, given, now)

    HostSession._section = ending  # type: ignore[method-assign]


def arm() -> None:
    """What this process is to do, if anything."""
    point = os.environ.get(DIE_ENV, "")
    if point == READER:
        lose_reader()
    elif point:
        POINTS[point](point)
