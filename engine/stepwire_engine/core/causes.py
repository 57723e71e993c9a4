"""Ids of runs and events that follow from their cause, so that a cause that is acted on twice acts once.

They have the layout of every run id (`clock.py`): ten characters of time, sixteen that here are a digest.
"""

from __future__ import annotations

from hashlib import sha256

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_CHARACTERS = 10
_DIGEST_BITS = 80
_SEED_BITS = 63

RUN_FAILED_EVENT = "stepwire/run.failed"
"""Sent when a run failed, to flows that have a trigger for it (`@flow.on_failure`, MISSION S21)."""


def child_run_id(run_id: str, path: str, attempt: int) -> str:
    """The run that attempt `attempt` of the `invoke` step at `path` starts."""
    return run_id[:_TIME_CHARACTERS] + _digest(f"invoke/{run_id}/{path}/{attempt}")


def successor_run_id(run_id: str) -> str:
    """The run that goes on after `ctx.restart_with`."""
    return run_id[:_TIME_CHARACTERS] + _digest(f"restart/{run_id}")


def triggered_run_id(event_id: str, flow: str, at_ms: int) -> str:
    """The run of `flow` that an event starts."""
    return _base32(at_ms, _TIME_CHARACTERS) + _digest(f"event/{event_id}/{flow}")


def sent_event_id(run_id: str, path: str, index: int) -> str:
    """The id of an event that a `send_event` step sends without one."""
    return run_id[:_TIME_CHARACTERS] + _digest(f"send/{run_id}/{path}/{index}")


def failed_event_id(run_id: str) -> str:
    """The id of the event that says that this run failed."""
    return run_id[:_TIME_CHARACTERS] + _digest(f"failed/{run_id}")


def seed_of(run_id: str) -> int:
    """Seed of a run whose id was derived, 0..2^63 - 1."""
    return int.from_bytes(sha256(f"seed/{run_id}".encode()).digest()[:8], "big") >> (64 - _SEED_BITS)


def _digest(cause: str) -> str:
    number = int.from_bytes(sha256(cause.encode()).digest(), "big") >> (256 - _DIGEST_BITS)
    return _base32(number, _DIGEST_BITS // 5)


def _base32(number: int, characters: int) -> str:
    return "".join([_ALPHABET[(number >> 5 * place) & 31] for place in range(characters - 1, -1, -1)])
