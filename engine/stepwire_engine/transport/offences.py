"""Who breaks the protocol again and again: counted per minute, then refused for a while (DESIGN 5, MISSION P14).

A broken host that dials for ever must cost no more than being told so. Nothing here knows a frame or a stream, and what
is remembered is bounded: of many offenders those that were quiet longest are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from stepwire.protocol.failure import ErrorCode

OFFENCES = frozenset(
    {
        ErrorCode.PROTOCOL,
        ErrorCode.UNDECODABLE,
        ErrorCode.PAYLOAD_TOO_LARGE,
        ErrorCode.PLAN_REJECTED,
        ErrorCode.INVALID_NAME,
        ErrorCode.INVALID_ARGUMENT,
    }
)
"""Faults that only a broken host causes; too many of them, and it is refused for a while."""
WINDOW_SECONDS = 60.0
OFFENDERS_MAX = 10_000
"""Offenders that are remembered."""


@dataclass(slots=True)
class _Record:
    since: float
    count: int = 0
    refused_until: float = 0.0


class Offences:
    """Counts the faults of each peer.

    Args:
        clock: Monotonic seconds.
        per_minute_max: Faults of one peer within a minute that are answered one by one, at least 1.
        backoff: How long it is refused after one more, in seconds; 0: not at all.
    """

    def __init__(self, clock: Callable[[], float], *, per_minute_max: int, backoff: float) -> None:
        self._clock = clock
        self._per_minute_max = per_minute_max
        self._backoff = backoff
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def note(self, peer: str) -> float:
        """The peer broke the protocol. Returns for how many seconds it is refused from now on; 0: it is not."""
        now = self._clock()
        record = self._records.pop(peer, None)
        if record is None or now - record.since > WINDOW_SECONDS:
            record = _Record(now, 0, 0.0 if record is None else record.refused_until)
        record.count += 1
        if record.count > self._per_minute_max:
            record.refused_until = now + self._backoff
        self._records[peer] = record
        if len(self._records) > OFFENDERS_MAX:
            self._records.popitem(last=False)
        return max(0.0, record.refused_until - now)

    def refused_for(self, peer: str) -> float:
        """For how many seconds the peer is refused; 0: it is not."""
        record = self._records.get(peer)
        return 0.0 if record is None else max(0.0, record.refused_until - self._clock())
