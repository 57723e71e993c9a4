"""What the test host process adds to the SDK: it notes Acks and drains in the ledger, and can force replay.

Imported in host processes only. It wraps three private functions and changes nothing of what they do.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from typing import Any

from stepwire._serving import RunningHost
from stepwire._transport.session import HostSession
from stepwire.protocol.frames import EngineFrame, EngineSection, HostSection
from tests.e2e.ledger import Pen

REPLAY_ENV = "E2E_REPLAY"


def note_acks(pen: Pen) -> None:
    """Write `acked` for every result that the engine acknowledged."""
    forget = HostSession._forget_section

    def noted(self: HostSession, section: HostSection) -> None:
        for result in section.results:
            pen.write("acked", section.run_id, result.path, result.attempt)
        forget(self, section)

    HostSession._forget_section = noted  # type: ignore[method-assign]


def note_drain(pen: Pen) -> None:
    """Write `draining` when the host has begun to stop."""
    drain = HostSession.drain

    def noted(self: HostSession, deadline: float) -> None:
        drain(self, deadline)
        pen.write("draining", "-", "-", 0)

    HostSession.drain = noted  # type: ignore[method-assign]


def force_replay() -> None:
    """Give every body back when a release comes, as the test environment of the SDK does with `replay=True`."""
    handle = RunningHost._handle

    def replaying(self: RunningHost, frame: EngineFrame, sections: list[Any]) -> None:
        handle(self, frame, [section for section in sections if not _thrown_away(self, section)])

    RunningHost._handle = replaying  # type: ignore[method-assign]


def _thrown_away(running: RunningHost, section: EngineSection) -> bool:
    if section.advance is None or section.advance.start is not None:
        return False
    running.runtime.throw_away(section.run_id)
    section.advance = None
    return not (section.executes or section.cancels or section.evict)


def observe(pen: Pen) -> None:
    # For reports of failures: SIGUSR1 prints the stacks of all threads to the log.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    note_acks(pen)
    note_drain(pen)
    if os.environ.get(REPLAY_ENV):
        force_replay()
