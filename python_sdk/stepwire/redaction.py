"""What of a step or flow is not for human eyes: `redact=` (MISSION V7, docs/guide/secrets.md).

A payload is redacted as a whole: nobody has to say where in it the secret stands, and none is forgotten. Hosts, and
programs that await a result, always get the value; records, commands and logs say how long it is. This module only
marks: whether marked bytes are also unreadable where they are stored is the codec's to decide.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import msgspec

from stepwire.codec import Codec
from stepwire.errors import ConfigurationError
from stepwire.protocol.failure import Failure
from stepwire.protocol.payload import Payload

Part = Literal["input", "output", "failure"]
Redact = Part | Iterable[Part]
"""What `redact=` takes: one part or several."""
HIDDEN = "(redacted)"
"""What stands for the text of a failure."""


@runtime_checkable
class Sealing(Protocol):
    """A codec that does more than usual for what a `redact=` names."""

    def seal(self, payload: Payload, *, repeatable: bool) -> Payload:
        """Make a payload of this codec unreadable where it is stored; `decode` reads it again.

        Args:
            repeatable: The same payload gives the same bytes: inputs, which are compared when a start is repeated.
        """


class Parts(enum.Flag):
    """Parts of a step or flow."""

    INPUT = enum.auto()
    OUTPUT = enum.auto()
    FAILURE = enum.auto()


_PARTS: dict[object, Parts] = {"input": Parts.INPUT, "output": Parts.OUTPUT, "failure": Parts.FAILURE}


@dataclass(frozen=True, slots=True)
class Redacted:
    """Stands in a record for a value that is not shown.

    Attributes:
        size: Of what is stored, in bytes.
    """

    size: int

    def __str__(self) -> str:
        return f"(redacted, {self.size} bytes)"


def parts_of(redact: Redact) -> Parts | None:
    """The parts that a `redact=` names; None: none, so that whoever asks needs not look at more.

    Raises:
        ConfigurationError: it names something else.
    """
    if redact == ():
        return None
    given: object = redact  # whatever user code gives
    several = given if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    found = Parts(0)
    for name in several:
        part = _PARTS.get(name) if isinstance(name, str) else None
        if part is None:
            raise ConfigurationError(f"redact= does not know {name!r:.80}", hint=_NAMES)
        found |= part
    return found or None


_NAMES = 'write redact="output", or several of "input", "output" and "failure"'


def redacts(parts: Parts | None, part: Parts) -> bool:
    """Whether `part` is among `parts`."""
    return parts is not None and part in parts


def marked(payload: Payload, codec: Codec, part: Parts) -> Payload:
    """The payload, not for human eyes; a codec that is a `Sealing` also makes it unreadable where it is stored."""
    if isinstance(codec, Sealing):
        payload = codec.seal(payload, repeatable=part is Parts.INPUT)
    return payload.marked()


def hidden(failure: Failure) -> Failure:
    """The failure without its texts: what user code writes there may hold what it must not tell."""
    return msgspec.structs.replace(
        failure,
        message=HIDDEN,
        traceback="",
        cause=None if failure.cause is None else hidden(failure.cause),
    )
