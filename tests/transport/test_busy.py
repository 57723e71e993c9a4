"""A call that the engine refuses because too much is in progress is made again, as often and as late as is bounded."""

from __future__ import annotations

import pytest

from stepwire._transport import run_answers
from stepwire.errors import EngineBusy, EngineUnavailable, RunError
from stepwire.protocol.failure import ErrorCode
from stepwire_engine.core.refusal import CallRefused
from tests.transport.callers import Caller
from tests.transport.run_engine import TablePort


def refuse(port: TablePort, times: int, *, retry_after: float | None = 0.01) -> None:
    """The engine has no room for the first calls."""
    ask = port._ask

    def asked(*question: object) -> None:
        ask(*question)
        if len(port.asked) <= times:
            raise CallRefused(ErrorCode.LIMIT_EXCEEDED, "7 runs are in progress", retry_after=retry_after)

    port._ask = asked  # type: ignore[method-assign]


def test_a_start_without_a_key_is_made_again_until_there_is_room(port: TablePort, caller: Caller) -> None:
    refuse(port, run_answers.BUSY_TRIES - 1)
    caller.start("orders", 17)
    assert len(port.asked) == run_answers.BUSY_TRIES and len(port.runs) == 1


def test_after_some_tries_the_error_is_typed_and_says_when_to_try_again(port: TablePort, caller: Caller) -> None:
    refuse(port, 1000)
    with pytest.raises(EngineBusy, match="7 runs are in progress") as busy:
        caller.start("orders", 17)
    assert len(port.asked) == run_answers.BUSY_TRIES
    assert (busy.value.code, busy.value.retry_after) == (ErrorCode.LIMIT_EXCEEDED, 0.01)
    assert isinstance(busy.value, EngineUnavailable), "whoever catches that is told as well"


def test_a_limit_that_time_does_not_change_is_told_at_once(port: TablePort, caller: Caller) -> None:
    refuse(port, 1000, retry_after=None)
    with pytest.raises(RunError) as refused:
        caller.start("orders", 17)
    assert refused.value.code is ErrorCode.LIMIT_EXCEEDED and len(port.asked) == 1


def test_an_engine_that_asks_for_a_long_pause_does_not_get_it(
    port: TablePort, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_answers, "BUSY_SECONDS_MAX", 0.01)
    refuse(port, 1, retry_after=3600.0)
    caller.start("orders", 17)
    assert len(port.asked) == 2
