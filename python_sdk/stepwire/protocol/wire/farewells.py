"""Drain, Goodbye and Fault, which both directions have."""

from __future__ import annotations

from typing import Any

from stepwire.protocol import limits
from stepwire.protocol.bounds import cut_text
from stepwire.protocol.frames import Drain, EngineFrame, Fault, Goodbye, HostFrame
from stepwire.protocol.wire.payloads import error_code
from stepwire.protocol.wire.scalars import duration_from_pb, duration_to_pb
from stepwire.v1 import host_service_pb2


def _drain_to_pb(drain: Drain, target: host_service_pb2.Drain) -> None:
    target.SetInParent()
    duration_to_pb(drain.deadline, target.deadline)


def _fault_to_pb(fault: Fault, target: Any) -> None:
    target.code = fault.code
    target.message = cut_text(fault.message, limits.MESSAGE_TEXT_BYTES_MAX)
    target.run_id = fault.run_id


def farewell_to_pb(frame: HostFrame | EngineFrame, target: Any) -> None:
    """The three fields both directions end with."""
    if frame.drain is not None:
        _drain_to_pb(frame.drain, target.drain)
    if frame.goodbye is not None:
        target.goodbye.SetInParent()
        target.goodbye.reason = frame.goodbye.reason
    if frame.fault is not None:
        _fault_to_pb(frame.fault, target.fault)


def farewell_from_pb(value: Any, frame: HostFrame | EngineFrame) -> None:
    if value.HasField("drain"):
        frame.drain = Drain(duration_from_pb(value.drain.deadline))
    if value.HasField("goodbye"):
        frame.goodbye = Goodbye(value.goodbye.reason)
    if value.HasField("fault"):
        fault = value.fault
        frame.fault = Fault(error_code(fault.code), fault.message, fault.run_id)
