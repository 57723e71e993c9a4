"""The one exception with which the engine refuses a client's call. It carries no stack of the engine to anybody."""

from __future__ import annotations

from stepwire.protocol.failure import ErrorCode


class CallRefused(Exception):
    """A call cannot be done, for a reason the caller is told.

    Args:
        code: The stable cause; `transport/status.py` says which status it becomes.
        message: One line for people, without anything internal: it is shown to the peer as it is.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.slug}: {self.message}"
