"""Whether a host may have a session: what its Hello must say before anything is given to it (proto/README 3)."""

from __future__ import annotations

from stepwire.protocol import limits
from stepwire.protocol.bounds import name_problem
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import Fault, Feature, Hello
from stepwire_engine.core import matching

FEATURES: frozenset[int] = frozenset(Feature)
"""All of the protocol."""


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
    problem = (
        name_problem("the instance_id of Hello", hello.instance_id, most=limits.INSTANCE_ID_BYTES_MAX)
        or name_problem("the service name of Hello", hello.service)
        or next(filter(None, (name_problem("the name of a flow", flow) for flow in hello.flows)), None)
        or next(filter(None, (name_problem("the name of a step", step) for step in hello.steps)), None)
    )
    if problem is not None:
        return Fault(ErrorCode.INVALID_NAME, problem)
    for options in hello.flow_options:
        for trigger in options.triggers:
            try:
                matching.check(trigger.match)
            except matching.MalformedMatch as error:
                what = f"match {trigger.match[:200]!r} of a trigger of flow {options.flow!r}"
                return Fault(ErrorCode.INVALID_ARGUMENT, f"{what} is refused: {error}")
    return None
