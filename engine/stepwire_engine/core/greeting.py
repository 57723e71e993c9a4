"""Whether a host may have a session: what its Hello must say before anything is given to it (proto/README 3)."""

from __future__ import annotations

from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import Fault, Hello
from stepwire_engine.core import matching

FEATURES: frozenset[int] = frozenset({1, 2})
"""FEATURE_STEP_KINDS and FEATURE_UNDO of the protocol."""


def hello_refusal(hello: Hello) -> Fault | None:
    """The Fault that refuses this Hello, or None."""
    if hello.protocol_min > limits.PROTOCOL_MAX or hello.protocol_max < limits.PROTOCOL_MIN:
        older = hello.protocol_max < limits.PROTOCOL_MIN
        return Fault(
            ErrorCode.VERSION,
            f"protocol {hello.protocol_min}..{hello.protocol_max} offered, engine speaks "
            f"{limits.PROTOCOL_MIN}..{limits.PROTOCOL_MAX}; upgrade the {'host' if older else 'engine'}",
        )
    for feature in hello.required_features:
        if feature not in FEATURES:
            return Fault(ErrorCode.FEATURE, f"feature {feature} required by the host is not supported by this engine")
    if not hello.instance_id or not 0 < len(hello.service.encode()) <= limits.NAME_BYTES_MAX:
        return Fault(ErrorCode.INVALID_NAME, "Hello needs an instance_id and a service name of 1..256 bytes")
    for options in hello.flow_options:
        for trigger in options.triggers:
            try:
                matching.check(trigger.match)
            except matching.MalformedMatch as error:
                what = f"match {trigger.match[:200]!r} of a trigger of flow {options.flow!r}"
                return Fault(ErrorCode.INVALID_ARGUMENT, f"{what} is refused: {error}")
    return None
