"""The seam between the loop and whatever carries frames: a gRPC stream, or an in-process pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stepwire.protocol.frames import EngineFrame
from stepwire_engine.core.sessions import Session

ENGINE_INSTANCE = "stepwire-engine"
"""Instance id of the host inside the engine; no other host may use it."""


class Port(Protocol):
    """One stream to one host. Both methods return at once and raise nothing; after `close` frames are dropped."""

    def send(self, frame: EngineFrame) -> None:
        """Queue a frame; frames leave in this order."""

    def close(self) -> None:
        """End the stream when everything queued is sent. Idempotent."""


@dataclass(slots=True, eq=False)
class Attached:
    """A stream that said Hello.

    Attributes:
        session: Of the instance; it survives its streams.
        stream: Which of the session's streams this is.
        last_number: Number of the last frame sent on it.
        written: Number of the last one that its transport has written; stays 0 where sending is all there is.
        closed: Nothing is sent any more.
    """

    session: Session
    stream: int
    port: Port
    last_number: int = 0
    written: int = 0
    closed: bool = False

    @property
    def current(self) -> bool:
        """No newer stream of the instance has replaced this one."""
        return self.session.stream == self.stream

    def send(self, frame: EngineFrame) -> None:
        """Send a frame, unless the stream was closed."""
        if not self.closed:
            self.last_number = frame.number
            self.port.send(frame)

    def close(self) -> None:
        """End the stream when everything queued is sent. Idempotent."""
        self.closed = True
        self.port.close()
