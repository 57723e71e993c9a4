"""The one exception with which the engine refuses a client's call. It carries no stack of the engine to anybody."""

from __future__ import annotations

from stepwire.protocol.failure import ErrorCode

RETRY_BUSY_SECONDS = 0.5
"""When to try again what was refused because too much is in progress."""


def unreadable_message(run_id: str) -> str:
    """What a caller is told about a run that is kept aside; the engine's log says which row of the store it is."""
    return (
        f"what is stored of run {run_id} is damaged and is not served; the run is kept aside, every other one goes on. "
        "Run `stepwire doctor` where the engine runs"
    )


class CallRefused(Exception):
    """A call cannot be done, for a reason the caller is told.

    Args:
        code: The stable cause; `transport/status.py` says which status it becomes.
        message: One line for people, without anything internal: it is shown to the peer as it is.
        retry_after: When it is worth trying again, in seconds; None: nobody can say.
    """

    def __init__(self, code: ErrorCode, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code.slug}: {self.message}"


def busy(what: str) -> CallRefused:
    """The refusal of a call that there is no room for at the moment; `what` there is too much of."""
    return CallRefused(ErrorCode.LIMIT_EXCEEDED, f"{what}; try again later", retry_after=RETRY_BUSY_SECONDS)
