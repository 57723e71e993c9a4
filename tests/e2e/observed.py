"""What the test host process adds to the SDK: it notes Acks and drains in the ledger, and can force replay.

Imported in host processes only. It wraps two private functions and changes nothing of what they do.
"""

from __future__ import annotations

import faulthandler
import os
import signal

from stepwire._transport.session import HostSession
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import HostSection
from tests.e2e.ledger import Pen
from tests.evicting import keep_no_bodies

REPLAY_ENV = "E2E_REPLAY"


def note_acks(pen: Pen) -> None:
    """Write `acked` for every outcome that the engine acknowledged; an attempt that was stopped has none."""
    forget = HostSession._forget_section

    def noted(self: HostSession, section: HostSection) -> None:
        for result in section.results:
            if result.failure is None or result.failure.code is not ErrorCode.CANCELLED:
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


def observe(pen: Pen) -> None:
    # For reports of failures: SIGUSR1 prints the stacks of all threads to the log.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    note_acks(pen)
    note_drain(pen)
    if os.environ.get(REPLAY_ENV):
        keep_no_bodies()
