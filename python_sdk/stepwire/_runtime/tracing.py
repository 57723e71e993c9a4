"""Whether a host makes spans. One that does not runs the same code as if there were no traces.

Bodies and attempts that make spans are classes of their own (`traced.py`), chosen once when the host starts, so that
nothing asks again for each step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from stepwire._runtime.attempts import Attempts
from stepwire._runtime.body import LiveBody
from stepwire._runtime.body_host import BodyHost
from stepwire._tracing import configured_tracer
from stepwire.flow import FlowFunction
from stepwire.protocol.frames import Advance


class Makers(NamedTuple):
    """What makes the bodies and the attempts of a host."""

    body: Callable[[BodyHost, str, FlowFunction[..., Any], Advance], LiveBody] = LiveBody
    attempts: Callable[..., Attempts] = Attempts


PLAIN = Makers()


def makers_of(service: str, tracing: bool) -> Makers:
    """Those that make spans if that is wanted, and the application has configured OpenTelemetry by now.

    Args:
        service: Name of the host, for its spans.
        tracing: Whether spans are wanted.
    """
    tracer = configured_tracer() if tracing else None
    if tracer is None:
        return PLAIN
    from stepwire._runtime.traced import traced_makers  # it imports OpenTelemetry

    return Makers(*traced_makers(tracer, service))
